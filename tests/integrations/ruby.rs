//! Active Record, as Debian has it.

use std::fs::write;

use super::{MEMBER, PAGE, World, copy, models, output};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn active_record_reads_rows_by_the_ready_models_and_writes_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let world = World::new().await;
    copy("activerecord/clerk.rb", folder.join("clerk.rb"));
    let run = async |name: &str| {
        let mut command = world.command(folder, "ruby");
        command.arg(name);
        output(name, command).await
    };
    PAGE.write_block(folder, "query.rb");
    assert_eq!(run("query.rb").await, format!("{MEMBER}\n"));

    let query = PAGE.block("query.rb");
    let (start, _) = query.split_once("members =").expect("a query");
    let each = models()
        .iter()
        .map(|model| model.class().replacen("Clerk", "Clerk::", 1))
        .map(|class| format!("puts \"{class} #{{{class}.all.to_a.size}}\"\n"))
        .collect::<Vec<_>>()
        .concat();
    let more = "orphan = Clerk::OrganizationMembership.find(\"orgmem_2\")\nputs orphan.user_id, orphan.user.inspect\n\
                puts Clerk::User.find(\"user_1\").memberships.map(&:id).inspect\n\
                begin\n  orphan.update!(role: \"x\")\nrescue ActiveRecord::ReadOnlyRecord\n  puts \"read-only\"\nend\n";
    write(folder.join("all.rb"), format!("{start}{each}{more}")).expect("a written file");
    let said = run("all.rb").await;
    for line in [
        "Clerk::User 1\n",
        "Clerk::OrganizationMembership 2\n",
        "Clerk::Change 4\n",
        "user_2\nnil\n",
        "[\"orgmem_1\"]\n",
        "read-only\n",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
}
