//! Django and `SQLAlchemy`.

use std::fs::{create_dir_all, write};
use std::path::Path;
use std::process::Command;

use rollbook_testkit::events::{START, event, user};
use rollbook_testkit::process::{Home, until};

use super::{MEMBER, PAGE, World, copy, models, output, packages};
use crate::crashes::BINARY;
use crate::packages::python;
use crate::raw_http::{exchange, signed, status};

fn interpreter(world: &World, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = world.command(folder, folder.join("venv/bin/python"));
    command.args(arguments).env("DJANGO_SETTINGS_MODULE", "settings").env("PYTHONPATH", folder);
    command.env("DATABASE_URL", world.url().replacen("postgresql://", "postgresql+psycopg://", 1));
    command
}

async fn run(world: &World, folder: &Path, name: &str, program: &str) -> String {
    write(folder.join(name), program).expect("a written file");
    output(name, interpreter(world, folder, &["-W", "error::DeprecationWarning", name])).await
}

/// A program that reads all rows of each model.
fn reads(before: &str, count: &str) -> String {
    let each = models()
        .iter()
        .map(|model| {
            format!("print('{0}', {count})\n", model.class(), count = count.replace("MODEL", &model.class()))
        })
        .collect::<Vec<_>>()
        .concat();
    format!("{before}{each}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn django_reads_rows_by_the_ready_models_and_by_those_of_inspectdb() {
    let folder = python(&packages("python.txt"));
    let folder = folder.path();
    let world = World::new().await;
    PAGE.write_block(folder, "settings.py");
    create_dir_all(folder.join("clerk")).expect("a folder");
    write(folder.join("clerk/__init__.py"), "").expect("a written file");
    copy("django/clerk_models.py", folder.join("clerk/models.py"));
    output(
        "django check",
        interpreter(&world, folder, &["-m", "django", "check", "--fail-level", "WARNING"]),
    )
    .await;
    assert_eq!(run(&world, folder, "query.py", &PAGE.block("query.py")).await, format!("{MEMBER}\n"));
    let all =
        reads("import django\n\ndjango.setup()\nfrom clerk.models import *\n\n", "len(MODEL.objects.all())");
    let orphan = "orphan = ClerkOrganizationMembership.objects.select_related('user').get(id='orgmem_2')\n\
                  print(orphan.user_id, orphan.user)\n";
    let said = run(&world, folder, "all.py", &(all + orphan)).await;
    for line in ["ClerkUser 1\n", "ClerkOrganizationMembership 2\n", "ClerkChange 4\n", "user_2 None\n"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    // No migration makes or drops these tables, and one of the application's own may refer to them.
    let made = interpreter(
        &world,
        folder,
        &["-m", "django", "makemigrations", "clerk", "--dry-run", "--verbosity", "3"],
    );
    let made = output("makemigrations", made).await;
    assert!(made.matches("'managed': False").count() == models().len(), "{made}");

    let inspect = ["-m", "django", "inspectdb", "--settings", "settings", "--database", "clerk"];
    let inspected = output("inspectdb", interpreter(&world, folder, &inspect)).await;
    write(folder.join("clerk/models.py"), inspected).expect("a written file");
    let program = "import django\n\ndjango.setup()\nfrom clerk.models import Changes, Deliveries, Users\n\n\
                   for model in Changes, Deliveries, Users:\n    print(model.__name__, len(model.objects.using('clerk').all()))\n\
                   print(Users.objects.using('clerk').get().primary_email_address)\n";
    let said = run(&world, folder, "inspected.py", program).await;
    assert_eq!(said, "Changes 4\nDeliveries 4\nUsers 1\nines@work.example\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlalchemy_reads_rows_by_the_ready_models_and_by_automap() {
    let folder = python(&packages("python.txt"));
    let folder = folder.path();
    let world = World::new().await;
    copy("sqlalchemy/clerk_models.py", folder.join("clerk_models.py"));
    assert_eq!(run(&world, folder, "read.py", &PAGE.block("read.py")).await, format!("{MEMBER}\n"));
    let before = "import os\n\nfrom sqlalchemy import create_engine, select\nfrom sqlalchemy.orm import Session\n\
                  from clerk_models import *\n\nsession = Session(create_engine(os.environ['DATABASE_URL']))\n";
    let all = reads(before, "len(session.scalars(select(MODEL)).all())");
    let more = "orphan = session.get(ClerkOrganizationMembership, 'orgmem_2')\nprint(orphan.user_id, orphan.user)\n\
                print([one.id for one in session.get(ClerkUser, 'user_1').memberships])\n";
    let said = run(&world, folder, "all.py", &(all + more)).await;
    for line in [
        "ClerkUser 1\n",
        "ClerkOrganizationMembership 2\n",
        "ClerkChange 4\n",
        "user_2 None\n",
        "['orgmem_1']\n",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let said = run(&world, folder, "automap.py", &PAGE.block("automap.py")).await;
    assert_eq!(said, "user_1 ines@work.example\n");
}

const SQLITE_SETTINGS: &str = "import os\n\nDATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', \
    'NAME': f\"file:{os.environ['STORE']}?mode=ro\", 'OPTIONS': {'uri': True}}}\n\
    INSTALLED_APPS = ['clerk']\nDEFAULT_AUTO_FIELD = 'django.db.models.BigAutoField'\n";
const SQLITE_DJANGO: &str = "import django\n\ndjango.setup()\nfrom clerk.models import Users\n\n\
    user = Users.objects.get()\nprint(user.primary_email_address, user.created_at)\n";
const SQLITE_AUTOMAP: &str = "import os\n\nfrom sqlalchemy import MetaData, create_engine, select\n\
    from sqlalchemy.ext.automap import automap_base\nfrom sqlalchemy.orm import Session\n\n\
    engine = create_engine(f\"sqlite:///file:{os.environ['STORE']}?mode=ro&uri=true\")\n\
    metadata = MetaData()\nmetadata.reflect(engine)\nBase = automap_base(metadata=metadata)\nBase.prepare()\n\
    with Session(engine) as session:\n    \
        user = session.scalars(select(Base.classes.users)).one()\n    \
        print(user.primary_email_address, user.created_at)\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite_inspectdb_and_automap_read_rows_without_writing() {
    let folder = python(&packages("python.txt"));
    let folder = folder.path();
    let home = Home::new(BINARY).with("ROLLBOOK_LOG", "warn");
    let _serving = home.start_ready(&["serve"]).await;
    let body = event("user.created", START, &user("user_1", START)).to_string();
    assert_eq!(status(&exchange(home.listen, &signed("msg_1", &body)).await), 200);
    until("it is applied", || async { home.metric("rollbook_applied_total").await > Some(0.0) }).await;

    create_dir_all(folder.join("clerk")).expect("a folder");
    write(folder.join("clerk/__init__.py"), "").expect("a written file");
    write(folder.join("settings.py"), SQLITE_SETTINGS).expect("a written file");
    let python = |arguments: &[&str]| {
        let mut command = Command::new(folder.join("venv/bin/python"));
        command.args(arguments).current_dir(folder).env("PYTHONPATH", folder);
        command.env("DJANGO_SETTINGS_MODULE", "settings").env("STORE", home.data().join("store.db"));
        command
    };
    let inspected = output("inspectdb", python(&["-m", "django", "inspectdb"])).await;
    write(folder.join("clerk/models.py"), inspected).expect("a written file");
    for program in [SQLITE_DJANGO, SQLITE_AUTOMAP] {
        let said = output("the program", python(&["-c", program])).await;
        assert_eq!(said, "ines@work.example 2026-07-28T08:00:00.015Z\n");
    }
}
