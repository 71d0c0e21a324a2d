//! Properties: no bytes cause a panic, and no change of a genuine token verifies.

use std::sync::LazyLock;

use proptest::prelude::*;
use rollbook_session::unverified::{self, Unverified};
use rollbook_session::{KeySet, Policy, Verdict, verify, weigh};

use crate::mint::{NOW, at, claims, instance_keys, judge, policy, token, verifier};

static GENUINE: LazyLock<String> = LazyLock::new(|| token(&claims()));
static KEYS: LazyLock<KeySet> = LazyLock::new(instance_keys);
static POLICY: LazyLock<Policy> = LazyLock::new(policy);

fn verifies(token: &str) -> bool {
    verify(token, &KEYS, &POLICY, at(NOW)).is_ok()
}

/// Edits of a text: replace, insert and delete characters, swap and repeat pieces.
#[derive(Clone, Debug)]
enum Edit {
    Replace(prop::sample::Index, char),
    Insert(prop::sample::Index, String),
    Delete(prop::sample::Index, usize),
    Move(prop::sample::Index, prop::sample::Index, usize),
}

impl Edit {
    fn apply(&self, text: &str) -> String {
        let mut letters: Vec<char> = text.chars().collect();
        letters.push('.');
        match self {
            Self::Replace(at, letter) => {
                let at = at.index(letters.len());
                letters[at] = *letter;
            }
            Self::Insert(at, piece) => {
                let at = at.index(letters.len());
                letters.splice(at..at, piece.chars());
            }
            Self::Delete(at, length) => {
                let at = at.index(letters.len());
                letters.drain(at..letters.len().min(at + length));
            }
            Self::Move(from, to, length) => {
                let from = from.index(letters.len());
                let piece: Vec<char> = letters[from..letters.len().min(from + length)].to_vec();
                let to = to.index(letters.len());
                letters.splice(to..to, piece);
            }
        }
        if letters.last() == Some(&'.') {
            letters.pop();
        }
        letters.into_iter().collect()
    }
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        4 => (at(), prop_oneof!["[A-Za-z0-9_.=-]".prop_map(|text| text.chars().next().unwrap_or('A')), any::<char>()])
            .prop_map(|(at, letter)| Edit::Replace(at, letter)),
        1 => (at(), "[A-Za-z0-9_.-]{1,8}").prop_map(|(at, piece)| Edit::Insert(at, piece)),
        1 => (at(), 1..40_usize).prop_map(|(at, length)| Edit::Delete(at, length)),
        1 => (at(), at(), 1..40_usize).prop_map(|(from, to, length)| Edit::Move(from, to, length)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_changed_token_never_verifies(edits in prop::collection::vec(edit(), 1..4)) {
        let changed = edits.iter().fold(GENUINE.clone(), |text, edit| edit.apply(&text));
        prop_assert_eq!(verifies(&changed), changed == *GENUINE);
        let _ = (weigh(&changed), Unverified::read(&changed).and_then(|token| token.session()));
    }

    #[test]
    fn arbitrary_text_never_verifies_and_never_panics(text in any::<String>(), parts in "[A-Za-z0-9_-]{0,80}\\.[A-Za-z0-9_-]{0,80}\\.[A-Za-z0-9_-]{0,80}") {
        for token in [text, parts] {
            prop_assert!(!verifies(&token));
            let _ = (weigh(&token), Unverified::read(&token));
            let _ = (KeySet::from_pem(&token), KeySet::from_jwks(token.as_bytes()));
        }
    }

    #[test]
    fn arbitrary_headers_never_panic(authorization in any::<Vec<u8>>(), cookie in any::<Vec<u8>>()) {
        let cookie = [b"__session_a=".as_slice(), &cookie].concat();
        prop_assert!(verifier().authenticate([authorization.as_slice()], [cookie.as_slice()]).is_err());
    }

    #[test]
    fn arbitrary_claims_are_decoded_or_refused(
        keys in prop::collection::vec(prop_oneof!["(sub|sid|iss|azp|exp|nbf|iat|v|sts|o|fea|pla|act|fva|aud|jti|org_id|org_role)", any::<String>()], 0..12),
        value in prop_oneof![Just("null".to_owned()), Just("{}".to_owned()), "-?[0-9]{1,30}", "\"[ouu,:a-z0-9]{0,30}\"", any::<String>()],
        prefix in any::<bool>(),
    ) {
        let quoted = |key: &String| serde_json::to_string(key).expect("a text");
        let members: Vec<String> = keys.iter().map(|key| format!("{}:{value}", quoted(key))).collect();
        let usual = if prefix { r#""sub":"u","sid":"s","iss":"i","exp":1,"x":0"# } else { r#""x":0"# };
        let _ = unverified::session_of(format!("{{{usual},{}}}", members.join(",")));
        let _ = unverified::session_of(value);
    }

    #[test]
    fn masks_of_any_text_grant_only_known_names(features in "([oux]{1,2}:[a-c]{1,2},?){0,5}", names in "([a-c]{0,2},?){0,5}", masks in "([0-9a]{0,25},?){0,5}") {
        let claims = serde_json::json!({
            "sub": "u", "sid": "s", "iss": "i", "exp": 1, "v": 2, "fea": features,
            "o": {"id": "o", "rol": "r", "per": names, "fpm": masks},
        });
        if let Ok(session) = unverified::session_of(claims.to_string()) {
            for permission in session.organization().expect("an organization").permissions() {
                let parts: Vec<&str> = permission.split(':').collect();
                let [org, feature, name] = parts[..] else { panic!("{permission}") };
                prop_assert_eq!(org, "org");
                let is_known = names.split(',').any(|known| known == name);
                prop_assert!(is_known && session.has_feature(&["org:", feature].concat()));
            }
        }
    }
}

#[test]
fn every_single_character_of_a_token_counts() {
    let genuine = GENUINE.as_str();
    assert!(judge(genuine).is_ok());
    for at in 0..genuine.len() {
        for letter in ['A', 'b', '-', '.', '='] {
            let mut changed: Vec<char> = genuine.chars().collect();
            changed[at] = letter;
            let changed: String = changed.into_iter().collect();
            assert!(changed == genuine || !verifies(&changed), "{letter} at {at}");
        }
        assert!(!verifies(&genuine[..at]), "cut at {at}");
    }
    assert_eq!(weigh(genuine).expect("a token").verdict(), Verdict::Fits);
}
