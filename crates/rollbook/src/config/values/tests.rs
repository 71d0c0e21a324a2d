//! Tests of the forms of values.

use super::*;

const MAX: Duration = Duration::from_secs(86_400);

#[test]
fn yes_and_no_may_be_written_as_true_and_false_on_and_off_or_1_and_0() {
    for (text, value) in [("yes", true), ("True", true), ("on", true), ("1", true)] {
        assert_eq!(yes_or_no(text), Ok(value), "{text}");
    }
    for (text, value) in [("no", false), ("FALSE", false), ("off", false), ("0", false)] {
        assert_eq!(yes_or_no(text), Ok(value), "{text}");
    }
    for text in ["", "y", "2", "maybe"] {
        let wrong = yes_or_no(text).expect_err(text);
        for word in ["yes", "no", "true", "false", "on", "off", "1", "0"] {
            let words = wrong.fix.split(|letter: char| !letter.is_alphanumeric());
            assert!(words.filter(|written| *written == word).count() >= 1, "{word}: {}", wrong.fix);
        }
    }
}

#[test]
fn a_duration_is_a_number_and_a_unit() {
    for (text, seconds) in [("60s", 60), ("10m", 600), ("2h", 7200), ("2 s", 2)] {
        assert_eq!(duration(text, MAX), Ok(Duration::from_secs(seconds)), "{text}");
    }
    assert_eq!(duration("500ms", MAX), Ok(Duration::from_millis(500)));
    for text in
        ["", "s", "5", "-5s", "1.5s", "5 parsecs", "0s", "25h", "99999999999999999999s", "9999999999999999h"]
    {
        assert!(duration(text, MAX).is_err(), "{text}");
    }
}

#[test]
fn a_pause_may_be_none() {
    assert_eq!((pause("0s", MAX), pause("5s", MAX)), (Ok(Duration::ZERO), Ok(Duration::from_secs(5))));
    assert!(pause("0", MAX).is_err() && pause("25h", MAX).is_err());
}

#[test]
fn an_interval_may_be_off_and_a_share_is_above_zero_and_at_most_one() {
    assert_eq!((interval("off", MAX), interval("24h", MAX)), (Ok(None), Ok(Some(MAX))));
    assert!(["", "0s", "Off", "no", "25h"].iter().all(|text| interval(text, MAX).is_err()));
    assert_eq!((share("1"), share("0.5"), share("1e-3")), (Ok(1.0), Ok(0.5), Ok(0.001)));
    for text in ["", "0", "-0.5", "1.01", "inf", "NaN", "50%", "half"] {
        assert!(share(text).is_err(), "{text}");
    }
}

#[test]
fn another_key_than_a_secret_key_is_refused_in_its_own_words_and_never_quoted() {
    for text in ["sk_live_hidden", "sk_test_hidden"] {
        assert!(secret_key(text).is_ok());
    }
    for (text, words) in [
        ("pk_live_hidden", "publishable"),
        ("whsec_hidden", "signing secret"),
        ("hidden", "sk_live_"),
        ("sk_live_hid den", "damaged"),
    ] {
        let refusal = secret_key(text).expect_err(text);
        assert!(refusal.what.contains(words), "{refusal:?}");
        assert!(!format!("{refusal:?}").contains("hid"), "{refusal:?}");
    }
    for text in ["http://api.example/hidden", "https://u:hidden@h", "hidden", "ftp://h/hidden"] {
        let refusal = api_url(text).expect_err(text);
        assert!(!format!("{refusal:?}").contains("hidden"), "{refusal:?}");
    }
    assert!(api_url("http://127.0.0.1:9000/v1").is_ok());
}

#[test]
fn a_size_is_bytes_or_a_binary_multiple() {
    for (text, bytes) in [("4096", 4096), ("64KiB", 65_536), ("1MiB", 1_048_576), ("1GiB", 1 << 30)] {
        assert_eq!(size(text, 1 << 30), Ok(bytes), "{text}");
    }
    for text in ["", "0", "1MB", "2GiB", "MiB", "-1", "99999999999999GiB"] {
        assert!(size::<u64>(text, 1 << 30).is_err(), "{text}");
    }
}

#[test]
fn a_number_is_at_least_one_and_a_count_may_be_zero() {
    assert_eq!((number("64", 64), count("0", 4), count("4", 4)), (Ok(64_u8), Ok(0_u8), Ok(4_u8)));
    assert!(
        number::<u8>("0", 64).is_err()
            && number::<u8>("65", 64).is_err()
            && number::<u8>("300", 999).is_err()
    );
    assert!(["5", "-1", "none"].iter().all(|text| count::<u8>(text, 4).is_err()));
}

#[test]
fn a_secret_in_the_wrong_setting_is_not_quoted() {
    for text in [
        "postgres://u:hidden@h",
        "whsec_hidden",
        "sk_live_hidden",
        "u:hidden@h",
        "u:hid,den:hidden@h",
        "host=h password=hidden",
        "PGPASSWORD=hidden",
        "postgres:/u:hidden@h/db",
    ] {
        let refusals = [
            duration(text, MAX).err(),
            pause(text, MAX).err(),
            size::<u64>(text, 1).err(),
            number::<u64>(text, 1).err(),
            count::<u64>(text, 1).err(),
            address(text).err(),
            choice(text, &[("yes", true)]).err(),
            log_filter(text).err(),
            key_prefix(text).err(),
            identifier(text).err(),
            plain(text).err(),
            path(text, "file").err(),
        ];
        assert!(refusals.iter().flatten().count() >= 8, "{text}");
        for refusal in refusals.into_iter().flatten() {
            assert!(!format!("{refusal:?}").contains("hidden"), "{refusal:?}");
        }
    }
    assert!(number::<u64>("many", 1).expect_err("no number").what.contains("many"));
}

#[test]
fn an_address_is_literal() {
    for text in ["127.0.0.1:8080", "[::1]:0", "localhost:80"] {
        assert!(address(text).is_ok(), "{text}");
    }
    for text in ["8080", ":8080", "example.com:80", "127.0.0.1", "127.0.0.1:99999"] {
        assert!(address(text).is_err(), "{text}");
    }
}

#[test]
fn a_misspelt_level_is_not_taken_for_the_name_of_a_module() {
    for text in ["info", "WARN", "info,rollbook_worker=debug", "off"] {
        assert!(log_filter(text).is_ok(), "{text}");
    }
    assert!(log_filter("debgu").expect_err("no level").fix.contains("did you mean debug?"));
    assert!(log_filter("info,rollbook=loud").is_err());
}

#[test]
fn an_issuer_is_a_url_with_https_and_nothing_secret_is_in_it() {
    for (text, issuer) in [
        ("https://clerk.example.com", "https://clerk.example.com"),
        ("https://clerk.example.com/", "https://clerk.example.com"),
        ("https://example.com/__clerk", "https://example.com/__clerk"),
        ("https://fun-cat-1.clerk.accounts.dev", "https://fun-cat-1.clerk.accounts.dev"),
    ] {
        assert_eq!(issuer_of(text).as_deref(), Ok(issuer), "{text}");
    }
    for text in [
        "",
        "clerk.example.com",
        "http://clerk.example.com",
        "https://",
        "https://me:hunter2@clerk.example.com",
        "https://clerk.example.com?key=hunter2",
        "https://clerk.example.com/sk_live_hunter2",
        "https://clerk.example.com#hunter2",
        "https://clerk example.com",
        "https://*.example.com",
    ] {
        let wrong = issuer(text).expect_err(text);
        assert!(!wrong.what.contains("hunter2") && !wrong.fix.contains("hunter2"), "{}", wrong.what);
    }
}

fn issuer_of(text: &str) -> Result<String, String> {
    issuer(text).map_err(|wrong| wrong.what)
}

#[test]
fn authorized_parties_are_origins_separated_by_commas_or_white_space() {
    let parties =
        authorized_parties("https://app.example.com, https://www.example.com\nchrome-extension://abc");
    let expected = ["https://app.example.com", "https://www.example.com", "chrome-extension://abc"];
    assert_eq!(parties.map_err(|wrong| wrong.what), Ok(expected.map(str::to_owned).to_vec()));
    for text in ["", " , ", "app.example.com", "https://app.example.com/", "https://*.example.com"] {
        let wrong = authorized_parties(text).expect_err(text);
        assert!(
            !wrong.what.contains("::") && wrong.fix.contains("https://app.example.com"),
            "{}",
            wrong.what
        );
    }
    let wrong = authorized_parties(",").expect_err("it is empty");
    assert!(wrong.fix.contains("leave it out"), "{}", wrong.fix);
}

#[test]
fn a_public_key_is_pem_in_each_usual_form_and_a_private_one_is_refused_without_being_quoted() {
    let pem = rollbook_testkit::tokens::Signer::of_the_instance().pem();
    for text in [pem.clone(), pem.trim().replace('\n', "\\n"), pem.replace('\n', " ")] {
        assert_eq!(jwt_key(&text).map(|keys| keys.len()).map_err(|wrong| wrong.what), Ok(1));
    }
    for text in ["", "hunter2", "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----"] {
        let wrong = jwt_key(text).expect_err(text);
        assert!(!wrong.what.contains("hunter2"), "{}", wrong.what);
        let advice = format!("{}; {}", wrong.what, wrong.fix);
        assert!(advice.matches("copy the").count() <= 1, "{advice}");
    }
}

#[test]
fn fingerprints_are_read_with_and_without_colons_and_anything_else_is_refused() {
    let plain = "0f".repeat(32);
    let shown = ["0F"; 32].join(":");
    assert_eq!(fingerprints(&plain), Ok(vec![[0x0f; 32]]));
    assert_eq!(fingerprints(&format!("{shown}, {plain}")), Ok(vec![[0x0f; 32]; 2]));
    let wrong =
        ["", " , ", &plain[1..], &format!("{plain}0"), &plain.replace('f', "g"), "é", &format!("{plain},x")];
    for wrong in wrong {
        let refused = fingerprints(wrong).expect_err(wrong);
        assert!(refused.fix.contains("64 hexadecimal digits"), "{wrong}: {refused:?}");
    }
}
