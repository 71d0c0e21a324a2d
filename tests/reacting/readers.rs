//! Readers by SQL: the text of the page is the code that runs, and a position that is not in the feed stops them.

use std::process::Command;

use super::{Program, World, block, python, reader, write_block};

#[test]
fn the_rust_reader_of_the_page_is_the_one_that_the_tests_run() {
    assert_eq!(block("reader.rs"), include_str!("reader.rs"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_stop_with_a_message_at_a_position_that_was_removed_or_never_was() {
    let folder = python();
    let world = World::new().await;
    for (state, position) in
        [("removed_through = 5, last_position = 9", 4), ("removed_through = 0, last_position = 9", 10)]
    {
        world
            .sql(&format!(
                "UPDATE clerk.changes_state SET {state}; UPDATE app.readers SET position = {position}"
            ))
            .await;
        for name in ["reader.py", "welcome.py"] {
            let script = write_block(folder.path(), name);
            let mut command = Command::new(folder.path().join("venv/bin/python"));
            let mut program =
                Program::start(folder.path(), name, command.arg(script).env("DATABASE_URL", world.url()));
            assert_eq!(program.exit().await.code(), Some(1), "{}", program.log());
            assert!(
                program.log().contains(&format!("position {position} is not in the feed")),
                "{}",
                program.log()
            );
        }
        let url = world.url();
        let ended =
            tokio::task::JoinSet::from_iter([async move { reader::read(&url).await }]).join_next().await;
        let panic = ended.expect("a task").expect_err("it stops").into_panic();
        let message = panic.downcast_ref::<String>().expect("a message");
        assert!(message.contains(&format!("position {position} is not in the feed")), "{message}");
    }
}
