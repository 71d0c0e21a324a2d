//! A URL or a secret in place of a path.

use super::*;

const SECRETS: [&str; 9] = [
    "postgres://u:ImASecret@h/db",
    "redis://:ImASecret@h",
    "./postgres://u:ImASecret@h/db",
    "whsec_ImASecret",
    "whpk_ImASecret",
    "sk_live_ImASecret",
    "sk_test_ImASecret",
    "u:ImASecret@h/db",
    "host=h password=ImASecret",
];

#[test]
fn a_url_or_a_secret_in_place_of_a_path_is_refused_by_the_settings_name_wherever_it_comes_from() {
    let tries: Vec<(&About, &str)> = SETTINGS
        .iter()
        .filter_map(|setting| match setting.kind {
            Kind::Path => Some((*setting, "")),
            Kind::Url => Some((*setting, "sqlite://")),
            _ => None,
        })
        .collect();
    assert!(tries.len() >= 5, "two paths, and three URLs that may name a file");
    for (setting, scheme) in tries {
        for secret in SECRETS {
            let value = format!("{scheme}{secret}");
            let in_file = file(&format!("{} = \"{value}\"\n", setting.key));
            let environment = setting.environment();
            for refused in [
                load(&[(setting.key, &value)], &[], None),
                load(&[], &[(&environment, &value)], None),
                load(&[], &[], Some(in_file.path())),
            ] {
                let text = refusal(refused);
                assert!(text.starts_with(setting.key) && !text.contains("ImASecret"), "{value}: {text}");
            }
        }
    }
    let text = refusal(load(&[("data_dir", SECRETS[0])], &[], None));
    assert!(text.contains("is a URL, not a folder; write the path of a folder"), "{text}");
    let text = refusal(load(&[("redis_ca_file", SECRETS[0])], &[], None));
    assert!(text.contains("is a URL, not a file; write the path of a file"), "{text}");
    assert!(load(&[("data_dir", "./sk_test_folder")], &[], None).is_ok());
}

#[test]
fn a_url_or_a_secret_in_place_of_the_configuration_file_is_not_quoted() {
    for secret in SECRETS {
        let text = refusal(load(&[], &[], Some(Path::new(secret))));
        assert!(text.starts_with("--config: ") && !text.contains("ImASecret"), "{text}");
    }
}

#[test]
fn a_setting_of_a_shown_text_refuses_secrets() {
    for (key, value) in [
        ("clerk_instance_id", "sk_live_ImASecret"),
        ("clerk_instance_id", "u:ImASecret@h"),
        ("redis_key_prefix", "sk_live_ImASecret"),
        ("schema", "sk_live_imasecret"),
        ("log", "u:Im,ImASecret@h"),
    ] {
        let text = refusal(load(&[(key, value)], &[], None));
        assert!(text.starts_with(key) && !text.to_lowercase().contains("imasecret"), "{text}");
    }
}
