//! Prisma. Its 7th release fetches a program from its maker's server for `db pull` and `db push`. The 6th has the same as
//! WebAssembly in its package, and that is what runs here. Everything else is the 7th.

use std::fs::{create_dir_all, read_to_string, write};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::{MEMBER, PAGE, World, copy, output, refused};
use crate::architecture::root;
use crate::packages::npm;

/// Lines that the 6th release needs, and the 7th refuses.
const OF_THE_6TH: [&str; 2] = ["  engineType = \"client\"\n", "  url      = env(\"DATABASE_URL\")\n"];

/// Head of a file of models. `db pull` adds the models.
fn head(sixth: bool, schemas: &str) -> String {
    let [client, url] = if sixth { OF_THE_6TH } else { ["", ""] };
    format!(
        "generator client {{\n  provider = \"prisma-client\"\n  output   = \"../generated/prisma\"\n{client}}}\n\n\
         datasource db {{\n  provider = \"postgresql\"\n{url}  schemas  = [{schemas}]\n}}\n"
    )
}

/// Configuration of the 6th release, without a program of its own. Its driver does not know two types of the system catalog,
/// `"char"` (18) and `name` (19): they become what its engine expects.
const CONFIG_6: &str = r#"import { PrismaPg } from "@prisma/adapter-pg";
import pg from "pg";
import ours from "./prisma.config";

const TEXT = 25;
const CHARACTER = 6; // of the driver's own numbers
const characters = new Set<string>();

class Pool extends pg.Pool {
  async query(...parts: any[]): Promise<any> {
    const result = await (super.query as any)(...parts);
    for (const field of result?.fields ?? []) {
      if (field.dataTypeID === 18) characters.add(field.name);
      if (field.dataTypeID === 18 || field.dataTypeID === 19) field.dataTypeID = TEXT;
    }
    return result;
  }
}

async function adapter() {
  const factory = new PrismaPg(new Pool({ connectionString: process.env.DATABASE_URL }));
  const connect = factory.connect.bind(factory);
  factory.connect = async () => {
    const connection = await connect();
    const query = connection.queryRaw.bind(connection);
    connection.queryRaw = async (asked) => {
      const result = await query(asked);
      const type = (found: any, index: number) => (characters.has(result.columnNames[index]) ? CHARACTER : found);
      return { ...result, columnTypes: result.columnTypes.map(type) };
    };
    return connection;
  };
  return factory;
}

const experimental = { adapter: true, externalTables: true };
export default { schema: "prisma", engine: "js", experimental, tables: ours.tables, adapter };
"#;

/// Configuration without anything of Rollbook's.
const PLAIN_CONFIG: &str =
    "export default { schema: \"prisma\", datasource: { url: process.env.DATABASE_URL ?? \"\" } };\n";

fn prisma_6(world: &World, folder: &Path, arguments: &[&str]) -> Command {
    write(folder.join("prisma6.config.ts"), CONFIG_6).expect("a written file");
    let mut command = world.command(folder, "node");
    command.arg("node_modules/prisma-6/build/index.js").args(arguments);
    command.args(["--config", "prisma6.config.ts"]).env("CI", "true");
    command
}

fn prisma_7(world: &World, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = world.command(folder, folder.join("node_modules/.bin/prisma"));
    // Neither command runs this program, and both fetch it where none is named.
    command.args(arguments).env("PRISMA_SCHEMA_ENGINE_BINARY", "/bin/true");
    command
}

/// Compiles a program and the client that it uses, strictly, and runs it.
async fn compiled_and_run(world: &World, folder: &Path, program: &str) -> String {
    let mut types = world.command(folder, folder.join("node_modules/.bin/tsc"));
    types.args(["--noEmit", "--strict", "--skipLibCheck", "--target", "es2023", "--module", "esnext"]);
    types.args(["--moduleResolution", "bundler", program]);
    output("tsc", types).await;
    let mut bundle = world.command(folder, folder.join("node_modules/.bin/esbuild"));
    bundle.args(["--bundle", "--platform=node", "--format=esm", "--packages=external"]);
    bundle.args(["--outfile=run.mjs", program]);
    output("esbuild", bundle).await;
    let mut run = world.command(folder, "node");
    run.arg("run.mjs");
    output("the program", run).await
}

fn folder() -> TempDir {
    let folder = npm(&root().join("tests/reacting/packages/next"));
    create_dir_all(folder.path().join("prisma")).expect("a folder");
    folder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ready_models_for_prisma_are_valid_compile_and_read_rows() {
    let folder = folder();
    let world = World::new().await;
    write(folder.path().join("prisma/schema.prisma"), head(false, "\"public\", \"clerk\""))
        .expect("a written file");
    copy("prisma/clerk.prisma", folder.path().join("prisma/clerk.prisma"));
    copy("prisma/prisma.config.ts", folder.path().join("prisma.config.ts"));
    output("prisma validate", prisma_7(&world, folder.path(), &["validate"])).await;
    output("prisma generate", prisma_7(&world, folder.path(), &["generate"])).await;
    PAGE.write_block(folder.path(), "query.ts");
    let said = compiled_and_run(&world, folder.path(), "query.ts").await;
    assert_eq!(said, format!("{MEMBER}\n"));
    // Every model agrees with its table: each row is read, and a parent may be missing.
    let all = super::models::models()
        .iter()
        .map(|model| {
            let class = model.class();
            let name = format!("{}{}", class[..1].to_lowercase(), &class[1..]);
            format!("console.log(\"{name}\", (await prisma.{name}.findMany()).length);\n")
        })
        .collect::<Vec<_>>()
        .concat();
    let query = PAGE.block("query.ts");
    let (start, _) = query.split_once("const members").expect("a query");
    let orphan = "const orphan = await prisma.clerkOrganizationMembership.findUnique({ where: { id: \"orgmem_2\" }, \
                  include: { user: true } });\nconsole.log(orphan?.userId, orphan?.user);\n";
    write(folder.path().join("all.ts"), format!("{start}{all}{orphan}await prisma.$disconnect();\n"))
        .expect("a written file");
    let said = compiled_and_run(&world, folder.path(), "all.ts").await;
    for line in ["clerkUser 1\n", "clerkOrganizationMembership 2\n", "clerkChange 4\n", "user_2 null\n"] {
        assert!(said.contains(line), "{line}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_prisma_db_pull_makes_is_valid_compiles_and_reads_rows() {
    let folder = folder();
    let world = World::new().await;
    let path = folder.path().join("prisma/schema.prisma");
    write(&path, head(true, "\"clerk\"")).expect("a written file");
    write(folder.path().join("prisma.config.ts"), PLAIN_CONFIG).expect("a written file");
    output("prisma db pull", prisma_6(&world, folder.path(), &["db", "pull"])).await;
    let pulled = read_to_string(&path).expect("the models");
    let tables = world.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'clerk'").await;
    assert_eq!(pulled.matches("\nmodel ").count().to_string(), tables, "{pulled}");
    let models = pulled.split_once("\nmodel ").expect("a model").1;
    write(&path, format!("{}\nmodel {models}", head(false, "\"clerk\""))).expect("a written file");
    output("prisma validate", prisma_7(&world, folder.path(), &["validate"])).await;
    output("prisma generate", prisma_7(&world, folder.path(), &["generate"])).await;
    let query = PAGE.block("query.ts");
    let (start, _) = query.split_once("const members").expect("a query");
    let program = format!(
        "{start}for (const user of await prisma.users.findMany()) console.log(user.id, user.primary_email_address, \
         user.version_hash.length);\nawait prisma.$disconnect();\n"
    );
    write(folder.path().join("pulled.ts"), program).expect("a written file");
    assert_eq!(compiled_and_run(&world, folder.path(), "pulled.ts").await, "user_1 ines@work.example 16\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prisma_makes_a_table_that_refers_to_users_and_leaves_rollbooks_tables_alone() {
    let folder = folder();
    let world = World::new().await;
    copy("prisma/prisma.config.ts", folder.path().join("prisma.config.ts"));
    let models = read_to_string(super::ours("prisma/clerk.prisma")).expect("the models");
    let models = models.replacen("model ClerkUser {\n", "model ClerkUser {\n  projects Project[]\n", 1);
    write(folder.path().join("prisma/clerk.prisma"), models).expect("a written file");
    let mine = "\nmodel Project {\n  id Int @id\n  ownerId String?\n  \
                owner ClerkUser? @relation(fields: [ownerId], references: [id], onDelete: NoAction, onUpdate: NoAction)\n\n  \
                @@schema(\"public\")\n}\n";
    let schema = head(true, "\"public\", \"clerk\"") + mine;
    write(folder.path().join("prisma/schema.prisma"), schema).expect("a written file");
    let tables = world.tables().await;
    let push = ["db", "push", "--skip-generate", "--accept-data-loss"];
    output("prisma db push", prisma_6(&world, folder.path(), &push)).await;
    let key = "SELECT confrelid::regclass FROM pg_constraint
               WHERE conrelid = 'public.\"Project\"'::regclass AND contype = 'f'";
    assert_eq!(world.sql(key).await, "clerk.users");
    // The owner could drop them, and the configuration keeps it from that too.
    let mut as_owner = prisma_6(&world, folder.path(), &push);
    as_owner.env("DATABASE_URL", world.owner());
    output("prisma db push", as_owner).await;
    assert_eq!(world.tables().await, tables);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prisma_can_drop_the_tables_as_their_owner_and_not_as_the_role_of_the_page() {
    let folder = folder();
    let world = World::new().await;
    let mine = "\nmodel Project {\n  id Int @id\n\n  @@schema(\"public\")\n}\n";
    let schema = head(true, "\"public\", \"clerk\"") + mine;
    write(folder.path().join("prisma/schema.prisma"), schema).expect("a written file");
    write(folder.path().join("prisma.config.ts"), PLAIN_CONFIG).expect("a written file");
    let tables = world.tables().await;
    let push = |owner: bool, more: &[&str]| {
        let arguments = [&["db", "push", "--skip-generate"], more].concat();
        let mut command = prisma_6(&world, folder.path(), &arguments);
        if owner {
            command.env("DATABASE_URL", world.owner());
        }
        command
    };
    for more in ["--accept-data-loss", "--force-reset"] {
        let said = refused("prisma db push", push(false, &[more])).await;
        assert!(said.contains("must be owner of"), "{more}: {said}");
        assert_eq!(world.tables().await, tables, "{more}");
    }
    // The control: nothing else protects the tables, not even the configuration.
    copy("prisma/prisma.config.ts", folder.path().join("prisma.config.ts"));
    output("prisma db push --force-reset", push(true, &["--force-reset"])).await;
    assert_eq!(world.tables().await, "0");
}
