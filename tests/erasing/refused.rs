//! A trigger of the team keeps data of an erased person: the command fails and names it, and succeeds when it
//! is run again without the trigger.

use rusqlite::Connection;

use super::person::{self, ID};
use super::places::Places;
use super::{delivered, run};

/// Refusals of a child row, silently and by an error, and of a ledger entry.
const TRIGGERS: [(&str, &str); 3] = [
    ("BEFORE UPDATE ON organization_memberships WHEN NEW.synced_by = OLD.synced_by", "RAISE(IGNORE)"),
    ("BEFORE UPDATE ON organization_memberships WHEN NEW.synced_by = OLD.synced_by", "RAISE(ABORT, 'no')"),
    ("BEFORE DELETE ON deliveries WHEN OLD.svix_id = 'msg_0'", "RAISE(IGNORE)"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_from_files_that_a_trigger_refuses_fails_and_names_what_is_left() {
    for (when, action) in TRIGGERS {
        let places = Places::files();
        let events = person::events().into_iter().enumerate();
        delivered(
            &places,
            &events.map(|(number, event)| (format!("msg_{number}"), event)).collect::<Vec<_>>(),
        )
        .await;
        let team = Connection::open(places.home.data().join("store.db")).expect("the file opens");
        team.execute_batch(&format!("CREATE TRIGGER keeps {when} BEGIN SELECT {action}; END"))
            .expect("a trigger");
        let of_theirs = "SELECT id FROM organization_memberships WHERE user_id = ?1";
        let member: String = team.query_row(of_theirs, [ID], |row| row.get(0)).expect("a membership");

        let output = run(&places.home, &["erase", ID, "--yes"], 1).await;
        let is_child = when.contains("memberships");
        assert!(output.contains(if is_child { member.as_str() } else { "msg_0" }), "{output}");
        assert!(output.contains("trigger") && !output.contains("is erased"), "{output}");
        let story = run(&places.home, &["explain", ID], 0).await;
        assert!(story.contains("Pending work on its child rows"), "{story}");
        if is_child {
            let doctor = run(&places.home, &["doctor"], 0).await;
            assert!(doctor.contains("1 row could not be changed after a deletion"), "{doctor}");
            assert!(story.contains(&member), "{story}");
        }

        team.execute_batch("DROP TRIGGER keeps").expect("it goes");
        let output = run(&places.home, &["erase", ID, "--yes"], 0).await;
        assert!(output.contains("is erased"), "{output}");
        // Workers finish entries about addresses of the person, which no row has any more in the second run.
        let left =
            "SELECT (SELECT count(*) FROM organization_memberships WHERE data IS NOT NULL AND user_id = ?1)
                         + (SELECT count(*) FROM deliveries WHERE subject_id IN (?1, ?2))
                         + (SELECT count(*) FROM rollbook_cascades WHERE id IN (?1, ?2) OR parent_id = ?1)";
        assert_eq!(team.query_row(left, [ID, &member], |row| row.get(0)), Ok(0));
    }
}
