//! URLs as Prisma, Neon, Supabase, Heroku and libpq write them: each is read as it is meant, or refused by name.

use std::time::Duration;

use super::*;

fn parsed(url: &str) -> Address {
    match Address::parse(url) {
        Ok((address, _)) => address,
        Err(text) => panic!("{url} is refused: {text}"),
    }
}

fn ignored(url: &str) -> Ignored {
    Address::parse(url).unwrap_or_else(|text| panic!("{url} is refused: {text}")).1
}

fn refusal(url: &str) -> String {
    match Address::parse(url) {
        Ok((address, _)) => panic!("{url} is taken as {address}"),
        Err(text) => text,
    }
}

/// The mode of a URL with this query, to a server on another machine.
fn mode(query: &str) -> Result<Mode, String> {
    Address::parse(&format!("postgres://me@db.example/app?{query}")).map(|(address, _)| address.hosts[0].mode)
}

#[test]
fn an_address_shows_host_and_port_and_neither_user_nor_password() {
    let address = parsed("postgres://me:s%40cret@db.example:6543/app");
    assert_eq!(address.to_string(), "Postgres at db.example:6543");
    assert_eq!((address.user(), address.database()), ("me", "app"));
}

#[test]
fn a_text_that_is_not_a_url_of_postgres_is_refused_without_repeating_it() {
    for url in [
        "mysql://me:ImASecret@h/x",
        "postgres://me:ImASecret@h:none/x",
        "postgres://me:ImASecret@h:0/x",
        "postgres://me:ImASecret@h:65536/x",
        "postgres://me:Im#ASecret@h/x",
        "postgres://me:Im?ASecret@h/x",
        "postgres://me:12?ASecret@h/x",
        "postgres://me:12/ASecret@h/x",
        "postgres://me:12/x?ASecret=1@h/x",
        "postgres://me:12?a&ASecret@h/x",
        "postgres://me:12?sslrootcert=/ASecret@h/x",
        "postgres://me:12?host=ASecret@h/x",
        "postgres://me:12?application_name=ASecret@h/x",
        "postgres://me:12?dbname=ASecret@h/x",
        "postgres://me:12?sslmode=ASecret@h/x",
        "postgres://me:Im%ASecret@h/x",
        "postgres://me:ImASecret%@h/x",
        "postgres://me:ImASecret%ff@h/x",
        "postgres://me:ImASecret@h/x#y",
        "postgres://me:Im\nASecret@h/x",
        "postgres://me:ImASecret@h h/x",
        "postgres://me:ImASecret@[::1/x",
        "postgres://me:ImASecret@a,/x",
        "postgres://me:ImASecret@a,:1/x",
        "postgres://me@a,b:none/ImASecret",
        "postgres://me:ImASecret@a/x?host=a,b",
        "postgres://me:ImASecret@a/x?host=a%2Cb",
        "postgres://me:ImASecret@a/x?port=1,2",
        "postgres://h/x?target_session_attrs=ImASecret",
        "postgres://h/x?sslmode=ImASecret",
        "postgres://h/x?ssl=ImASecret",
        "postgres://h/x?port=ImASecret",
        "postgres://h/x?hostaddr=ImASecret",
        "postgres://h/x?password=a&ImASecret_ssl=1",
        "postgres://h/x?ImASecret=1&ImASecret=2",
    ] {
        let text = refusal(url);
        assert!(!text.contains("ASecret"), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
}

#[test]
fn a_password_with_raw_special_characters_is_read_or_refused_with_the_way_to_write_it() {
    for raw in ["a#b", "a/b", "12?b", "?b", "x?b", "12?sslmode=b", "7?password=b", "12/x?y=1", "a%b", "a%"] {
        let text = refusal(&format!("postgres://me:{raw}@h:1/x"));
        assert!(text.contains("%25") && text.contains("postgres://USER:PASSWORD@HOST"), "{raw}: {text}");
    }
    for raw in ["a@b", "a+b", "a&b=1", "a:b", "p w b", "12\\b", "[b", ",b"] {
        let address = parsed(&format!("postgres://me:{raw}@h:1/x"));
        assert_eq!((address.user(), address.to_string().as_str()), ("me", "Postgres at h:1"), "{raw}");
    }
}

#[test]
fn parameters_of_other_libraries_are_left_out_and_named_and_unknown_ones_only_numbered() {
    let url = "postgres://me@h/x?schema=public&pool_timeout=10&supa=base-pooler.x&sslmode=require";
    assert_eq!(ignored(url), Ignored { names: vec!["schema", "pool_timeout", "supa"], ..Ignored::default() });
    let url = "postgres://me@h/x?sslmode=require&password=a&ImASecret=1";
    assert_eq!(ignored(url), Ignored { numbers: vec![3], ..Ignored::default() });
}

#[test]
fn several_hosts_share_the_rest_of_the_url_and_one_that_takes_writes_is_looked_for() {
    let address = parsed("postgres://me:a,b@[::1]:1,db.example,10.0.0.7:3/app?sslmode=disable");
    assert_eq!(address.to_string(), "Postgres at [::1]:1, db.example:5432, 10.0.0.7:3");
    assert_eq!((address.user(), address.database(), address.writable), ("me", "app", true));
    for host in &address.hosts {
        assert_eq!((host.options.get_username(), host.options.get_database()), ("me", Some("app")));
    }
}

#[test]
fn each_of_several_hosts_has_the_default_of_its_own_distance() {
    let address = parsed("postgres://me@127.0.0.1,db.example,localhost,[::1]/app");
    let modes: Vec<Mode> = address.hosts.iter().map(|host| host.mode).collect();
    assert_eq!(modes, [Mode::Prefer, Mode::Require, Mode::Prefer, Mode::Prefer]);
}

#[test]
fn one_host_must_take_writes_at_once_if_the_url_says_so() {
    for (url, writable) in [
        ("postgres://me@h/x", false),
        ("postgres://me@h/x?target_session_attrs=any", false),
        ("postgres://me@h/x?target_session_attrs=read-write", true),
        ("postgres://me@h/x?target_session_attrs=primary", true),
    ] {
        let address = parsed(url);
        assert_eq!((address.writable, address.hosts.len()), (writable, 1), "{url}");
    }
    for target in ["standby", "read-only", "prefer-standby"] {
        assert!(refusal(&format!("postgres://me@h/x?target_session_attrs={target}")).contains("read-write"));
    }
}

#[test]
fn a_socket_is_an_address_too_and_needs_no_tls() {
    for url in [
        "postgres:///app?host=/run/postgresql",
        "postgres://%2Frun%2Fpostgresql/app",
        "postgres://me@%2Frun%2Fpostgresql:5433/app?sslmode=require",
    ] {
        let address = parsed(url);
        assert_eq!(address.to_string(), "Postgres in /run/postgresql");
        assert_eq!((address.hosts[0].mode, address.hosts[0].is_socket()), (Mode::Disable, true), "{url}");
    }
}

#[test]
fn to_another_machine_a_connection_is_encrypted_unless_the_url_says_otherwise() {
    for (query, expected) in [
        ("", Mode::Require),
        // libpq
        ("sslmode=disable", Mode::Disable),
        ("sslmode=allow", Mode::Prefer),
        ("sslmode=prefer", Mode::Prefer),
        ("sslmode=require", Mode::Require),
        ("sslmode=verify-ca", Mode::VerifyCa),
        ("sslmode=verify-full", Mode::VerifyFull),
        ("sslmode=require&sslrootcert=/ca.pem", Mode::VerifyCa),
        ("sslrootcert=/ca.pem", Mode::VerifyCa),
        ("sslrootcert=system", Mode::VerifyFull),
        ("sslmode=require&sslrootcert=system", Mode::VerifyFull),
        ("requiressl=1", Mode::Require),
        // Heroku, JDBC, node-postgres and others
        ("ssl=true", Mode::Require),
        ("ssl=1", Mode::Require),
        ("ssl=require", Mode::Require),
        ("ssl=no-verify", Mode::Require),
        ("tls=true", Mode::Require),
        ("sslrequire=true", Mode::Require),
        ("ssl=false", Mode::Disable),
        ("sslmode=no-verify", Mode::Require),
        ("sslmode=no-verify&sslrootcert=/ca.pem", Mode::Require),
        ("sslmode=prefer&ssl=true", Mode::Require),
        ("sslmode=verify-full&ssl=true", Mode::VerifyFull),
        ("uselibpqcompat=true&sslmode=require", Mode::Require),
        // Prisma
        ("sslaccept=strict", Mode::VerifyFull),
        ("sslmode=require&sslaccept=strict", Mode::VerifyFull),
        ("sslmode=require&sslaccept=accept_invalid_certs", Mode::Require),
        // These parameters of libpq ask for what Rollbook does anyway.
        ("sslmode=require&channel_binding=prefer", Mode::Require),
        ("gssencmode=disable&sslnegotiation=postgres&load_balance_hosts=disable", Mode::Require),
        ("ssl_min_protocol_version=TLSv1.2&sslcompression=0&sslsni=1", Mode::Require),
    ] {
        assert_eq!(mode(query), Ok(expected), "{query}");
    }
}

#[test]
fn what_can_not_be_done_is_refused_by_its_name_with_the_fix() {
    for (query, name, fix) in [
        ("sslmode=require&channel_binding=require", "channel_binding", "sslmode=verify-full"),
        ("sslnegotiation=direct", "sslnegotiation", "leave it out"),
        ("gssencmode=require", "gssencmode", "sslmode=verify-full"),
        ("load_balance_hosts=random", "load_balance_hosts", "leave it out"),
        ("uselibpqcompat=false&sslmode=require", "uselibpqcompat", "sslmode=verify-full"),
        ("ssl_min_protocol_version=TLSv1.3", "ssl_min_protocol_version", "leave it out"),
        ("sslcrl=/crl.pem", "sslcrl", "leave it out"),
        ("sslidentity=/x.p12", "sslidentity", "sslcert and sslkey"),
        ("sslpassword=x", "sslpassword", "sslkey"),
        ("sslcert=/c.pem", "sslkey", "both"),
        ("require_auth=scram-sha-256", "require_auth", "sslmode=verify-full"),
        ("service=app", "service", "write out"),
        ("passfile=/x", "passfile", "PGPASSFILE"),
        ("client_encoding=latin1", "client_encoding", "UTF8"),
        ("replication=true", "replication", "leave it out"),
        ("sslmode=disable&ssl=true", "sslmode=disable", "contradict"),
        ("sslmode=require&ssl=false", "sslmode", "contradict"),
        ("ssl=true&tls=false", "tls", "contradict"),
        ("ssl=maybe", "ssl", "sslmode=require"),
        ("sslmode=on", "sslmode", "verify-full"),
        // Unknown names that may ask for TLS.
        ("secure=true", "parameter 1", "sslmode"),
        ("x=1&verify_certificate=true", "parameter 2", "sslmode"),
        ("sslmode=require&sslmode=disable", "parameter 2", "twice"),
    ] {
        let text = mode(query).expect_err(query);
        assert!(text.contains(name) && text.contains(fix), "{query}: {text}");
    }
}

#[test]
fn what_says_that_a_pooler_stands_before_the_server_is_heard() {
    for (query, pooled) in [
        ("pgbouncer=true", true),
        ("pgbouncer=true&connection_limit=100&schema=public", true),
        ("pgbouncer=false", false),
        ("prepared_statements=false", true),
        ("prepareThreshold=0", true),
        ("statement_cache_size=0", true),
        ("default_query_exec_mode=simple_protocol", true),
        ("schema=public", false),
    ] {
        assert_eq!(parsed(&format!("postgres://me@h/x?{query}")).pooled, pooled, "{query}");
    }
}

#[test]
fn a_host_or_port_of_a_pooler_is_a_sign_unless_the_url_or_a_setting_says_what_there_is() {
    for (url, is_sign) in [
        ("postgres://me:pw@ep-cool-1-pooler.eu-central-1.aws.neon.tech/neondb?sslmode=require", true),
        ("postgres://me.ref:pw@aws-0-eu-central-1.pooler.supabase.com:6543/postgres", true),
        ("postgres://me.ref:pw@aws-0-eu-central-1.pooler.supabase.com:6543/postgres?pgbouncer=true", false),
        ("postgres://me.ref:pw@aws-0-eu-central-1.pooler.supabase.com:6543/postgres?pgbouncer=false", false),
        ("postgres://me.ref:pw@aws-0-eu-central-1.pooler.supabase.com:5432/postgres", false),
        ("postgres://me:pw@a,b-pooler.example/x", true),
        ("postgres:///app?host=/run/my-pooler.d&port=6543", false),
        ("postgres://me:pw@db.example/x", false),
    ] {
        assert_eq!(parsed(url).pooler_sign().is_some(), is_sign, "{url}");
        assert_eq!(ignored(url).pooler.is_some(), is_sign, "{url}");
        let settings = |pgbouncer| PostgresSettings { url: url.to_owned(), pgbouncer, ..settings("") };
        let sign_with =
            |pgbouncer| Address::of(&settings(pgbouncer)).map(|(_, ignored)| ignored.pooler.is_some());
        assert_eq!((sign_with(false), sign_with(true)), (Ok(is_sign), Ok(false)), "{url}");
    }
    let address = parsed("postgres://me@db.example/x");
    address.link().refused_settings();
    assert_eq!(address.pooler_sign(), Some(pooler::REFUSED_SETTINGS));
}

#[test]
fn a_limit_of_connections_for_other_clients_is_left_out_and_named_with_a_pooler_and_without() {
    // As Prisma's documentation and its templates write it.
    for (query, pooled) in [
        ("pgbouncer=true&connection_limit=1", true),
        ("schema=public&connection_limit=1&pool_timeout=10", false),
        ("connection_limit=100", false),
        ("connection_limit=none", false),
    ] {
        let (address, ignored) = Address::of(&settings(query)).expect(query);
        assert!(address.pooled == pooled && ignored.names.contains(&"connection_limit"), "{ignored:?}");
        let declared = PostgresSettings { pgbouncer: true, ..settings(query) };
        assert!(Address::of(&declared).is_ok_and(|(address, _)| address.pooled), "{query}");
    }
}

#[test]
fn a_value_of_pgbouncer_that_is_not_known_says_nothing_and_is_named() {
    let pooler = "postgres://me@ep-cool-1-pooler.eu-central-1.aws.neon.tech/x?pgbouncer=";
    for (value, wrong) in [("maybe", true), ("", true), ("false", false), ("no", false), ("true", false)] {
        let found = ignored(&format!("{pooler}{value}"));
        assert_eq!((found.wrong_values.is_empty(), found.pooler.is_some()), (!wrong, wrong), "{value}");
    }
}

fn settings(query: &str) -> PostgresSettings {
    PostgresSettings {
        url: format!("postgres://me@h/x?{query}"),
        schema: "clerk".to_owned(),
        changes: true,
        pgbouncer: false,
        connections_max: 8,
        statement_timeout: Duration::from_secs(1),
        connect_timeout: Duration::from_secs(1),
    }
}

#[test]
fn all_that_is_wrong_with_the_parameters_and_their_files_is_named_at_once() {
    let query = "sslmode=maybe&target_session_attrs=standby&hostaddr=here&service=s";
    let text = refusal(&format!("postgres://me@h/x?{query}"));
    for part in ["sslmode", "target_session_attrs", "hostaddr", "service"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let query = "sslmode=verify-full&sslrootcert=/no/ca&sslcert=/no/cert&sslkey=/no/key";
    let text = Address::of(&settings(query)).err().expect("refused");
    for part in ["sslrootcert", "sslcert", "sslkey"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_certificate_file_that_is_not_one_is_named_by_its_parameter() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str, content: Option<&str>| {
        let path = folder.path().join(name);
        if let Some(content) = content {
            std::fs::write(&path, content).expect("it can be written");
        }
        path.display().to_string()
    };
    let missing = path("missing.pem", None);
    let text = Address::of(&settings(&format!("sslrootcert={missing}"))).err().expect("it is missing");
    assert!(text.contains("sslrootcert") && text.contains("not found"), "{text}");
    let other = path("other.pem", Some("no certificate"));
    let text = Address::of(&settings(&format!("sslrootcert={other}"))).err().expect("it is something else");
    assert!(text.contains("sslrootcert") && text.contains("PEM"), "{text}");
    let right = path("right.pem", Some("-----BEGIN CERTIFICATE-----\n"));
    assert!(Address::of(&settings(&format!("sslrootcert={right}"))).is_ok());
}

#[test]
fn user_password_database_and_options_may_be_parameters() {
    let address = parsed(
        "postgresql://h:6543?user=me&password=x&dbname=app&application_name=my+app&options=-c%20search_path%3Dpublic",
    );
    assert_eq!((address.user(), address.database()), ("me", "app"));
    let options = &address.hosts[0].options;
    assert_eq!(options.get_application_name(), Some("my app"));
    assert_eq!(options.get_options(), Some("-c search_path=public"));
    for (query, options) in [
        ("options=endpoint%3Dep-cool-1", "endpoint=ep-cool-1"),
        ("options=project%3Dep-cool-1", "project=ep-cool-1"),
        (
            "options=-csearch_path=public%20-cstatement_timeout=1",
            "-csearch_path=public -cstatement_timeout=1",
        ),
        ("options[search_path]=public&options[geqo]=off", "-c search_path=public -c geqo=off"),
    ] {
        let address = parsed(&format!("postgres://me@h/x?{query}"));
        assert_eq!(address.hosts[0].options.get_options(), Some(options), "{query}");
    }
    assert_eq!(parsed("postgres://me@h/x").hosts[0].options.get_application_name(), Some("rollbook"));
}

#[test]
fn a_debug_of_the_settings_shows_no_url() {
    let settings = PostgresSettings { url: "postgres://me:ImASecret@h/x".to_owned(), ..settings("") };
    assert!(!format!("{settings:?}").contains("ImASecret"));
}
