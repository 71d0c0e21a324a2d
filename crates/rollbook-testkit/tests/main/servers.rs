//! The servers keep their data through a crash and leave nothing behind.

use std::net::TcpStream;
use std::path::Path;

use rollbook_testkit::process::until;
use rollbook_testkit::servers::postgres::PostgresServer;

#[tokio::test]
async fn postgres_keeps_its_rows_through_a_crash() {
    let mut server = PostgresServer::start().await;
    server.create_database("app").await;
    server.psql("app", "CREATE TABLE kept AS SELECT 7 AS value").await;
    let url = server.url("app");
    server.kill();
    assert!(TcpStream::connect(("127.0.0.1", server.port())).is_err());
    server.restart().await;
    assert_eq!(server.psql("app", "SELECT value FROM kept").await, "7\n");
    assert_eq!(server.url("app"), url);
}

#[tokio::test]
async fn dropping_postgres_leaves_nothing_behind() {
    let server = PostgresServer::start_with(&[("fsync", "off")]).await;
    assert_eq!(server.psql("postgres", "SHOW fsync").await, "off\n");
    let folder = server.psql("postgres", "SHOW data_directory").await;
    let folder = std::path::PathBuf::from(folder.trim());
    assert!(folder.exists());
    let port = server.port();
    drop(server);
    assert!(!folder.exists());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

/// Returns the number of processes with this working folder.
fn processes_in(folder: &Path) -> usize {
    let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
    let folders = processes.filter_map(|entry| std::fs::read_link(entry.path().join("cwd")).ok());
    // The kernel appends a word to the name of a removed folder.
    folders.filter(|at| at.to_string_lossy().starts_with(&*folder.to_string_lossy())).count()
}

#[tokio::test]
async fn dropping_a_stopped_postgres_leaves_nothing_behind() {
    let server = PostgresServer::start_with(&[("fsync", "off")]).await;
    let folder = server.psql("postgres", "SHOW data_directory").await;
    let folder = Path::new(folder.trim());
    server.signal("STOP");
    assert!(processes_in(folder) > 1, "the server and its processes");
    drop(server);
    until("all have ended", || std::future::ready(processes_in(folder) == 0)).await;
}
