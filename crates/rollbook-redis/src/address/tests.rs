//! Tests of addresses.

use super::*;

#[test]
fn a_url_names_hosts_login_and_database() {
    let address = Address::parse("rediss://me:p%40ss@db.example:7000/3").expect("a URL");
    assert_eq!((address.form, address.tls, address.database), (Form::Single, true, 3));
    assert_eq!(address.hosts, [("db.example".to_owned(), 7000)]);
    assert_eq!((address.user.as_deref(), address.password.as_deref()), (Some("me"), Some("p@ss")));
    let address = Address::parse("redis://:secret@[::1]").expect("a URL");
    assert_eq!(address.hosts, [("::1".to_owned(), 6379)]);
    assert_eq!((address.user, address.password.as_deref()), (None, Some("secret")));
}

#[test]
fn sentinels_and_clusters_are_named_by_several_hosts() {
    let address = Address::parse("redis+sentinel://:pw@a,b:1/main/2").expect("a URL");
    assert_eq!((&address.form, address.database), (&Form::Sentinel("main".into()), 2));
    assert_eq!(address.hosts, [("a".to_owned(), 26_379), ("b".to_owned(), 1)]);
    let address = Address::parse("redis+cluster://a:1,b:2").expect("a URL");
    assert_eq!((address.form, address.hosts.len()), (Form::Cluster, 2));
}

#[test]
fn an_invalid_url_is_refused_and_never_shown() {
    for url in [
        "localhost:6379",
        "http://me:hidden@h",
        "redis://me:hidden@h:0",
        "redis://me:hidden@h/x",
        "redis://me:hidden@",
        "redis://me:hid%zzden@h",
        "redis://me:hidden@a,b",
        "redis+cluster://me:hidden@a/1",
        "redis+sentinel://me:hidden@a",
        "redis://me:hidden@h?tls=yes",
        "redis://me:12/hidden@h",
        "redis://me:12?hidden@h",
        "redis://me:12#hidden@h",
        "redis://me/hidden@h/0",
        "redis+sentinel://me/hidden@h/main",
        "redis+sentinel://me:12?x&hidden@h/main",
        "redis+cluster://me:12/hidden@h",
        "redis://me:12?hidden=1@h",
        "redis://me:x@hid den",
        "redis://me:hidden@h#x",
        "redis://me:hidden%ff@h",
        "redis://h?password=a&hidden=1",
    ] {
        let refusal = Address::parse(url).err().expect(url);
        assert!(!refusal.contains("hid"), "{refusal}");
    }
}

#[test]
fn a_raw_special_character_in_the_password_is_refused_with_its_encoding() {
    for raw in ["a/b", "12?b", "?b", "12#b", "7?password=b", "a%b"] {
        let refusal = Address::parse(&format!("redis://me:{raw}@h:1/0")).err().expect(raw);
        assert!(refusal.contains("%25"), "{raw}: {refusal}");
    }
    for raw in ["a@b", "a+b", "a&b", "a:b", "p w", "[b"] {
        let address = Address::parse(&format!("redis://me:{raw}@h:1/0")).expect(raw);
        assert_eq!((address.password.as_deref(), address.hosts[0].0.as_str()), (Some(raw), "h"));
    }
}

#[test]
fn the_url_determines_the_protection_of_a_connection() {
    for (url, protection) in [
        ("redis://127.0.0.1", Protection::Loopback),
        ("redis://[::1]:1", Protection::Loopback),
        ("redis://h", Protection::Clear),
        ("rediss://h", Protection::Verified),
        ("redis+sentinel://127.0.0.1/main", Protection::Clear),
        ("redis+cluster://127.0.0.1", Protection::Clear),
        ("rediss+cluster://127.0.0.1", Protection::Verified),
    ] {
        let address = Address::parse(url).expect(url);
        assert_eq!(address.protection(), (!address.tls).then_some(protection), "before a handshake: {url}");
        address.clone().met();
        assert_eq!(address.protection(), Some(protection), "{url}");
    }
}

#[test]
fn a_tls_parameter_is_accepted_or_refused_by_its_name_with_the_fix() {
    for url in
        ["rediss://h?ssl=true", "rediss://h?ssl_cert_reqs=required", "redis://h?ssl=false", "rediss://h"]
    {
        let address = Address::parse(url).unwrap_or_else(|refusal| panic!("{url}: {refusal}"));
        assert_eq!(address.tls, url.starts_with("rediss"), "{url}");
    }
    for (url, words) in [
        ("redis://h?ssl=true", ["asks for TLS", "rediss://"]),
        ("redis://h?tls=1", ["asks for TLS", "rediss://"]),
        ("rediss://h?ssl=false", ["rediss://", "write redis://"]),
        ("rediss://h#insecure", ["#insecure", "redis_ca_file"]),
        ("rediss://h?ssl_cert_reqs=none", ["ssl_cert_reqs", "redis_ca_file"]),
        ("rediss://h?ssl_cert_reqs=CERT_NONE", ["ssl_cert_reqs", "redis_ca_file"]),
        ("redis://h?ssl_cert_reqs=required", ["asks for TLS", "rediss://"]),
        ("rediss://h?skip_verify=true", ["skip_verify", "redis_ca_file"]),
        ("rediss://h?ssl_ca_certs=/ca.pem", ["ssl_ca_certs", "redis_ca_file"]),
        ("rediss://h?ssl_certfile=/c.pem", ["ssl_certfile", "not supported"]),
        ("redis://h?db=3", ["db", "/3"]),
        ("redis://h?protocol=3", ["number 1", "unknown parameter"]),
    ] {
        let refusal = Address::parse(url).err().expect(url);
        assert!(words.iter().all(|word| refusal.contains(word)), "{url}: {refusal}");
    }
}

#[test]
fn an_address_is_shown_without_its_login() {
    let shown = |url| Address::parse(url).expect("a URL").to_string();
    assert_eq!(shown("redis://me:pw@h:1/2"), "Redis at h:1");
    assert_eq!(shown("redis+sentinel://:pw@a,b/main"), "Redis main by the sentinels at a:26379,b:26379");
    assert_eq!(shown("redis+cluster://:pw@a,b"), "the Redis cluster at a:6379,b:6379");
}
