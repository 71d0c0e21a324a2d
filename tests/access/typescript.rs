//! The functions of the page in TypeScript, compiled as strictly as can be and run against the real binary.

use std::process::Command;

use rollbook_testkit::events::{START, deleted, event, membership, organization, user};
use rollbook_testkit::process::until;
use rollbook_testkit::tokens::{Signer, claims, member_claims};
use serde_json::{Value, json};

use super::{Stage, block, now};
use crate::architecture::root;
use crate::raw_http::{exchange, signed, status};

/// Installs the pinned packages, compiles the block of the page with the driver, and returns the folder.
fn compiled() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let packages = root().join("tests/access/packages/typescript");
    for file in ["package.json", "package-lock.json", "tsconfig.json", "drive.ts"] {
        std::fs::copy(packages.join(file), folder.path().join(file)).expect("a copied file");
    }
    std::fs::write(folder.path().join("tasks.ts"), block("tasks.ts")).expect("a written file");
    for command in [
        &["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"][..],
        &["node", "node_modules/typescript/bin/tsc"],
    ] {
        let ran = Command::new(command[0]).args(&command[1..]).current_dir(folder.path()).output();
        let ran = ran.unwrap_or_else(|error| panic!("{}: {error}; ops/test installs it", command[0]));
        let [out, err] = [&ran.stdout, &ran.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
        assert!(ran.status.success(), "{command:?}; npm needs the registry\n{out}{err}");
    }
    folder
}

async fn fill(stage: &Stage) {
    let member = |name: &str| membership(&format!("orgmem_{name}"), "org_1", &format!("user_{name}"), START);
    let of_user_1 = |organization: &str| {
        let id = format!("orgmem_of_{organization}");
        event("organizationMembership.created", START, &membership(&id, organization, "user_1", START))
    };
    let mut events = vec![
        event("organization.created", START, &organization("org_1", START)),
        event("organization.created", START, &organization("org_deleted", START)),
    ];
    for name in ["1", "removed", "deleted", "banned", "demoted", "promoted"] {
        events.push(event("user.created", START, &user(&format!("user_{name}"), START)));
        events.push(event("organizationMembership.created", START, &member(name)));
    }
    events.push(event("organizationMembership.deleted", START + 9, &member("removed")));
    events.push(event("user.deleted", START + 9, &deleted("user", "user_deleted")));
    let mut banned = user("user_banned", START + 9);
    banned["banned"] = json!(true);
    events.push(event("user.updated", START + 9, &banned));
    // The role is another one than in the token: since a later time, and since an earlier one, so that the row is late.
    for (name, at) in [("demoted", now() * 1000 + 1), ("promoted", START + 9)] {
        let id = format!("orgmem_{name}");
        let mut changed = membership(&id, "org_1", &format!("user_{name}"), at);
        changed["role"] = json!("org:member");
        events.push(event("organizationMembership.updated", at, &changed));
    }
    events.push(of_user_1("org_deleted"));
    events.push(event("organization.deleted", START + 9, &deleted("organization", "org_deleted")));
    // The event of this organization has not arrived.
    events.push(of_user_1("org_unknown"));
    for (number, event) in events.iter().enumerate() {
        let answer = exchange(stage.home.listen, &signed(&format!("msg_{number}"), &event.to_string())).await;
        assert_eq!(status(&answer), 200, "{answer}");
    }
    until("all are applied", || async {
        stage.home.metric("rollbook_queue_depth").await == Some(0.0)
            && stage.home.metric("rollbook_applied_total").await.is_some_and(|applied| applied >= 22.0)
    })
    .await;
}

#[tokio::test]
async fn the_context_and_the_deletion_of_a_task_in_typescript_serve_members_and_refuse_all_others() {
    let folder = compiled();
    let stage = Stage::start().await;
    fill(&stage).await;
    let (ours, other) = (Signer::of_the_instance(), Signer::of_another_instance());
    let member = |user: &str| member_claims(user, "org_1", now());
    let mut reader = member("user_1");
    reader["o"]["fpm"] = json!("1,0");
    let tokens = json!({
        "member": ours.token(&member("user_1")),
        "reader": ours.token(&reader),
        "removed": ours.token(&member("user_removed")),
        "deleted": ours.token(&member("user_deleted")),
        "banned": ours.token(&member("user_banned")),
        // Issued before the change.
        "demoted": ours.token(&member_claims("user_demoted", "org_1", now() - 30)),
        "promoted": ours.token(&member("user_promoted")),
        "organization_deleted": ours.token(&member_claims("user_1", "org_deleted", now())),
        "organization_unknown": ours.token(&member_claims("user_1", "org_unknown", now())),
        "without_organization": ours.token(&claims("user_1", now())),
        "expired": ours.token(&member_claims("user_1", "org_1", now() - 120)),
        "of_another_instance": other.token(&member("user_1")),
    });
    let ran = Command::new("node")
        .arg("out/drive.js")
        .current_dir(folder.path())
        .env("ROLLBOOK_API", format!("http://{}", stage.api))
        .env("TOKENS", tokens.to_string())
        .output()
        .expect("node runs");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let found: Value = serde_json::from_slice(&ran.stdout).expect("JSON");

    let context = &found["member"]["context"];
    let expected = json!({ "userId": "user_1", "organizationId": "org_1", "role": "org:admin",
        "permissions": ["org:tasks:read", "org:tasks:delete", "org:invoices:read"] });
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(&context[key], value, "{context}");
    }
    assert_eq!(context["organization"]["name"], "Kilnworks Studio", "{context}");
    assert_eq!(context["membership"]["id"], "orgmem_1", "{context}");
    assert!(context["ageSeconds"].is_u64(), "{context}");
    let member = json!(["done", 404, 404, ["theirs"]]);
    assert_eq!(
        outcomes(&found["member"]),
        member,
        "of two tasks, the one of the own organization is deleted"
    );
    assert_eq!(found["promoted"]["context"]["role"], "org:admin", "the row is late, and the token counts");
    assert_eq!(outcomes(&found["promoted"]), member);
    let kept = |status: u16| json!([status, status, status, ["mine", "theirs"]]);
    assert_eq!(outcomes(&found["reader"]), kept(403));
    for (name, status) in [
        ("removed", 403),
        ("deleted", 403),
        ("banned", 403),
        ("demoted", 403),
        ("organization_deleted", 403),
        ("organization_unknown", 403),
        ("without_organization", 403),
        ("expired", 401),
        ("of_another_instance", 401),
    ] {
        assert_eq!(found[name]["context"], status, "{name}");
        assert_eq!(outcomes(&found[name]), kept(status), "{name}");
    }
}

fn outcomes(found: &Value) -> Value {
    json!([found["mine"], found["theirs"], found["unknown"], found["left"]])
}
