//! Checks of session tokens: are the keys known, do they belong to this instance, and which applications are accepted.

use rollbook_api::{KeySource, fetch_keys};
use rollbook_operator::words::many;
use rollbook_session::KeySet;

use super::ASK_TIMEOUT;
use super::finding::{Finding, Findings, failed, ok, skipped, warning};
use crate::application;
use crate::config::Config;
use crate::faces::Faces;
use crate::live_secrets::LiveSecrets;

const KEYS: &str = "session_keys";
const PARTIES: &str = "session_parties";

/// Checks the settings of session tokens, with at most one request to the issuer. Without the API there is nothing to check.
pub(super) async fn tokens(config: &Config, needs: Faces) -> Findings {
    if !needs.worker || config.settings.api_listen.is_none() {
        return Vec::new();
    }
    let sessions = match application::sessions(config, LiveSecrets::of(config).jwt_keys()) {
        Ok(Some(sessions)) => sessions,
        Ok(None) => {
            return vec![skipped(KEYS, "off: clerk_issuer is not set, so the API accepts no session token")];
        }
        Err(error) => return vec![failed(KEYS, error.to_string(), "rollbook config shows each setting")],
    };
    let keys = match sessions.keys {
        KeySource::Fixed(keys) => ok(KEYS, format!("{} from clerk_jwt_key", counted(&keys.current()))),
        KeySource::Jwks(url) => match fetch_keys(&url, ASK_TIMEOUT).await {
            Ok(keys) => judge(&keys, url.server(), config.settings.clerk_instance_id.as_deref()),
            Err(why) => {
                let fix = "is clerk_issuer the Frontend API URL, and reachable from here? clerk_jwt_key needs no connection";
                failed(KEYS, format!("no keys: {why}"), fix)
            }
        },
    };
    vec![keys, parties(config.settings.clerk_authorized_parties.as_deref())]
}

fn counted(keys: &KeySet) -> String {
    many(keys.len() as u64, "key")
}

/// Compares the keys with the instance: Clerk names a key by the id of its instance.
fn judge(keys: &KeySet, server: &str, instance: Option<&str>) -> Finding {
    let found = format!("{} from {server}", counted(keys));
    let mut ids = keys.ids().flatten().filter(|id| id.starts_with("ins_"));
    match (instance, ids.next()) {
        (Some(expected), Some(first)) if first != expected && !ids.any(|id| id == expected) => warning(
            KEYS,
            format!("{found}, of {first}; CLERK_INSTANCE_ID is {expected}"),
            "set clerk_issuer to the Frontend API URL of that instance",
        ),
        (Some(expected), Some(_)) => ok(KEYS, format!("{found}, of {expected} as CLERK_INSTANCE_ID says")),
        _ => ok(KEYS, found),
    }
}

fn parties(parties: Option<&[String]>) -> Finding {
    match parties {
        None => warning(
            PARTIES,
            "session tokens of every application of the instance are accepted",
            "clerk_authorized_parties = the origins of your applications",
        ),
        Some([one]) => ok(PARTIES, format!("only tokens issued to {one} are accepted")),
        Some(many) => {
            ok(PARTIES, format!("only tokens issued to one of {} origins are accepted", many.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use rollbook_testkit::tokens::Signer;

    use super::super::finding::State;
    use super::*;

    #[test]
    fn keys_of_another_instance_are_a_warning() {
        let jwks = Signer::of_the_instance().jwks("ins_1").to_string();
        let keys = KeySet::from_jwks(jwks.as_bytes()).expect("keys");
        for (instance, state, words) in [
            (None, State::Ok, "1 key from clerk.example.com"),
            (Some("ins_1"), State::Ok, "of ins_1 as CLERK_INSTANCE_ID says"),
            (Some("ins_2"), State::Warning, "of ins_1; CLERK_INSTANCE_ID is ins_2"),
        ] {
            let finding = judge(&keys, "clerk.example.com", instance);
            assert!(finding.state == state && finding.found.contains(words), "{finding:?}");
        }
    }

    #[test]
    fn tokens_of_any_application_are_a_warning() {
        assert_eq!(parties(None).state, State::Warning);
        let one = ["https://app.example.com".to_owned()];
        assert_eq!(parties(Some(&one)).state, State::Ok);
    }
}
