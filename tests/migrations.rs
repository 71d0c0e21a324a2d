//! A migration that has been released never changes: files and schemas in the field would differ from new ones.

use std::path::Path;

use sha2::{Digest as _, Sha256};

/// Every migration and the SHA-256 of its text. Add lines; change none.
const RELEASED: [(&str, &str); 28] = [
    ("postgres/0001_mirror.sql", "ba0137fca8b1e74f8d565a7c26680af13c9a669d1a1e959e82c79fb180b77d0a"),
    ("postgres/0002_whole_of_clerk.sql", "eedf3c57e7004458464aa6b07a022036a482f2c29a3935f65d5ea8d8af72a499"),
    ("postgres/0003_ends.sql", "25897c1f31e1705f87ea81499b5c2629881fcd1d93be102be9ecc9b7914bca17"),
    ("postgres/0004_storage.sql", "62c2b3babaae5d762fd4faf3b8d1782ecc77f0c120f64d5ec4d0215e9a7d2711"),
    ("postgres/0005_cascades.sql", "6570167411b9d4cca292e86ed6fa734d2e3338332122f75c2213c059d3d533ea"),
    ("postgres/0006_ledger_order.sql", "cb1c534e072f895ca9eaccf54ed372280b433c477fb616c87691ee5f0d9f9590"),
    ("postgres/0007_links.sql", "13a835e24962a5450798858a826ee41f2c0ca14ed6de060573898745c672c941"),
    ("postgres/0010_reconcile.sql", "8bf82dc8b897bf96e8b42ca9522ab6105b06a77ce8bc5531bb5508c19b6de1f4"),
    ("postgres/0012_changes.sql", "31f2eba60d96d5b0bf5c0931f19c4bc2779268d7833d7c6adcf829fc301a1caf"),
    ("postgres/0013_forwards.sql", "154092e58a776ec3b6e625ae8b4ff9da86d370d19ac3779e3b5409fdab1c390f"),
    ("postgres/0015_permissions.sql", "d2f63e51305c687971bcbfcfbc874efc44598e8bed57ff0252d7a249b44c4045"),
    ("postgres/0016_generations.sql", "2a82383f8031b848579ddefcf67601d05513e2f47039c2a909ca31829a7c0c88"),
    ("sqlite/queue/0001_queue.sql", "c9fe8d1876c2c276077620bb778e7aaa56744f52769ad0ffccbd3998a7aa3db9"),
    ("sqlite/queue/0002_traceparent.sql", "990cbe3de636085c9ab826e0932fc5e647b5b0e09d4048f8a84765e29e0d5a8a"),
    ("sqlite/queue/0003_redriven.sql", "c26f4b4e6ad72bcea0e9b403ff6e8eeebfbc164cf32aa500c06be95c6bae26ac"),
    ("sqlite/queue/0004_discarded.sql", "21310a46b215c0b68aca112d66855a1adaef45297337e6a45514fdf0f508ac8e"),
    ("sqlite/store/0001_mirror.sql", "efac4135cda9f79aa77d6eb2bdf278fa8621bc73cd2701ee7a8f859688546d73"),
    (
        "sqlite/store/0002_whole_of_clerk.sql",
        "822d5d9a6b186069553950c75f89adc0b997089806f68a294f345db0505710ef",
    ),
    ("sqlite/store/0003_ends.sql", "c1c7fb6effd35d89cfcf1fe14106c38a6f908a1020e3abe8c8525a6ae0c1d5a1"),
    (
        "sqlite/store/0006_ledger_order.sql",
        "5a2c6991819a9bb4a505ed262e72056f278ee53c79c3ea73fb154d455c479b44",
    ),
    ("sqlite/store/0007_links.sql", "842c58cdb9b14708a838f0c812b1c6753558f1d40f9b637e296e5442f230fce4"),
    (
        "sqlite/store/0008_ledger_buckets.sql",
        "173fab1b941e8f5c611afbab65c2f7042d19ad0291eac2d6fca249b2c8df40a3",
    ),
    ("sqlite/store/0009_cascades.sql", "f2ff7a2894de02fb9bf9c85d7c8e86e879d814ec81d29b1690c89cd8395b9940"),
    ("sqlite/store/0010_reconcile.sql", "33dfba87443f3c15c3c6e45d61524cc2cddb6ff7acba86e34219a07f65e9f92d"),
    ("sqlite/store/0012_changes.sql", "9e9d3ef8ebe4a64e9b111f1b9413068ec4d289e1776a5884a566917143f725a5"),
    ("sqlite/store/0013_forwards.sql", "3c42438ff36b42099dd8fd503153b90fb534df4bcc88e7d9ba4d268537051638"),
    ("sqlite/store/0016_generations.sql", "f930152308062629443fcea27cf55edc567b22230e3f90f9118f38eab63dbb32"),
    ("sqlite/store/0017_line_times.sql", "26aa08025d22d0a8aba70db4e177c544841ce256e06437189ddcddb231b9a53a"),
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[test]
fn applied_migrations_never_change() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations");
    let mut found = Vec::new();
    for engine in ["postgres", "sqlite/queue", "sqlite/store"] {
        for entry in std::fs::read_dir(folder.join(engine)).expect("migrations").flatten() {
            let text = std::fs::read(entry.path()).expect("a migration");
            let sum = hex(&Sha256::digest(&text));
            found.push((format!("{engine}/{}", entry.file_name().display()), sum));
        }
    }
    found.sort_unstable();
    let released: Vec<(String, String)> =
        RELEASED.iter().map(|(name, sum)| ((*name).to_owned(), (*sum).to_owned())).collect();
    assert_eq!(found, released);
}
