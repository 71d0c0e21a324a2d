//! Several processes on one data folder: each says who the others are, all work, and a killed one counts no more.

use rollbook_testkit::process::{Home, until};

const BINARY: &str = env!("CARGO_BIN_EXE_rollbook");
const SHARED: &str = "are also used by ";

fn with_the_files_of(other: &Home) -> Home {
    Home::new(BINARY).with("ROLLBOOK_DATA_DIR", other.data().display().to_string())
}

fn send(home: &Home) {
    let sent = home.command(&["send", "user.created"]).output().expect("it runs");
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
}

fn doctor(home: &Home) -> String {
    let ran = home.command(&["doctor"]).output().expect("it runs");
    String::from_utf8(ran.stdout).expect("text").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Lines of the log about other processes.
fn lines(home: &Home) -> Vec<String> {
    home.log().lines().filter(|line| line.contains(SHARED)).map(str::to_owned).collect()
}

fn markers(home: &Home) -> usize {
    let names =
        std::fs::read_dir(home.data()).expect("the data folder").flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().contains(".process-")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_serve_on_one_folder_both_work_and_say_so_and_a_killed_one_counts_no_more() {
    let home = Home::new(BINARY);
    let second = with_the_files_of(&home);
    let mut one = home.start_ready(&["serve"]).await;
    let mut other = second.start_ready(&["serve"]).await;
    until("the second says who is there", || std::future::ready(!lines(&second).is_empty())).await;
    assert_eq!(lines(&home), Vec::<String>::new(), "the first was alone");
    let [line] = &lines(&second)[..] else { panic!("one line: {}", second.log()) };
    let who = format!("rollbook serve (process {}, ops port {}, since ", one.id(), home.ops);
    for part in ["WARN", &who, &format!("kill {}", one.id())] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let found = doctor(&home);
    assert!(
        found.contains(
            "2 processes use the files of data_dir, and at least two of them receive or work: rollbook serve"
        ),
        "{found}"
    );

    // Both take deliveries, and each is applied once.
    send(&home);
    send(&second);
    until("both are applied", || async {
        let mut sum = 0.0;
        for home in [&home, &second] {
            sum += home.metric("rollbook_applied_total").await.unwrap_or_default();
        }
        assert!(sum < 2.5, "{sum}");
        sum > 1.5
    })
    .await;

    one.kill();
    let killed = one.id();
    let mut third = home.start_ready(&["serve"]).await;
    until("the third says who is there", || std::future::ready(!lines(&home).is_empty())).await;
    let [line] = &lines(&home)[..] else { panic!("one line: {}", home.log()) };
    assert!(line.contains(&format!("process {}, ", other.id())), "{line}");
    assert!(!line.contains(&format!("process {killed}, ")), "{line}");
    assert_eq!(markers(&home), 2, "the marker of the killed one is gone");
    for process in [&mut other, &mut third] {
        process.signal("TERM");
        assert!(process.exit().await.success(), "{}\n{}", home.log(), second.log());
    }
    assert_eq!(markers(&home), 0);
    assert!(!doctor(&home).contains("use these files"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_kill_the_next_process_is_alone() {
    let home = Home::new(BINARY);
    home.start_ready(&["serve"]).await.kill();
    let mut next = home.start_ready(&["serve"]).await;
    next.signal("TERM");
    assert!(next.exit().await.success());
    assert_eq!((lines(&home), markers(&home)), (Vec::new(), 0), "{}", home.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_and_a_worker_on_one_folder_are_as_they_should_be() {
    let receiver = Home::new(BINARY);
    receiver.migrate();
    let worker = with_the_files_of(&receiver);
    let _receiving = receiver.start_ready(&["receive"]).await;
    let _working = worker.start_ready(&["work"]).await;
    until("the worker says who is there", || std::future::ready(!lines(&worker).is_empty())).await;
    let [line] = &lines(&worker)[..] else { panic!("one line: {}", worker.log()) };
    assert!(line.contains("INFO") && line.contains("rollbook receive (process "), "{line}");
    assert!(!worker.log().contains("WARN"), "{}", worker.log());
    let found = doctor(&receiver);
    assert!(found.contains("use the files of data_dir; one receives, the other works"), "{found}");
}
