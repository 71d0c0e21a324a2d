//! Verifications per second on one core, in turns with the bare RSA operation of the same crate.
//!
//! `ops/bench session` runs it. A quick run (`--quick`) only shows that it works. Otherwise the exit code is 1 if a
//! verification reaches less than 0.9 of the bare operation's rate, or less than 15,000 per second.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use rollbook_session::{KeySet, Keys, Policy, Verifier};
use serde_json::json;

#[path = "../tests/main/mint.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod mint;

const RATIO_MIN: f64 = 0.9;
const PER_SECOND_MIN: f64 = 15_000.0;

/// Calls in one turn: about half a millisecond, so that most turns are not interrupted.
const CALLS: u32 = 16;

/// Seconds of one call, as the mean of one turn.
fn seconds(mut call: impl FnMut()) -> f64 {
    let begin = Instant::now();
    (0..CALLS).for_each(|_| call());
    begin.elapsed().as_secs_f64() / f64::from(CALLS)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> ExitCode {
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    let turns = if is_quick { 3 } else { 4001 };

    let signer = mint::Signer::of_the_instance();
    let token = signer.token(&mint::header().to_string(), &mint::claims().to_string());
    let keys = KeySet::from_jwks(&mint::jwks(&[signer.jwk(mint::KID)])).expect("a JWKS");
    let policy = Policy::new(mint::ISSUER, [mint::PARTY]).expect("a policy");
    let verifier = Verifier::new(Keys::new(keys), policy).clock(|| mint::at(mint::NOW));

    // The bare operation: the same bytes and the same key, decoded before.
    let (text, signature) = token.rsplit_once('.').expect("three parts");
    let [signature, modulus, exponent] = {
        let jwk = signer.jwk(mint::KID);
        [json!(signature), jwk["n"].clone(), jwk["e"].clone()].map(|text| {
            let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
            base64::Engine::decode(&engine, text.as_str().expect("a text")).expect("base64")
        })
    };
    let bare = RsaPublicKeyComponents { n: modulus, e: exponent };

    let mut pairs = Vec::new();
    for _ in 0..turns {
        let bare = seconds(|| {
            let result = bare.verify(&RSA_PKCS1_2048_8192_SHA256, black_box(text.as_bytes()), &signature);
            black_box(result).expect("genuine");
        });
        let ours = seconds(|| {
            black_box(verifier.verify(black_box(&token))).expect("genuine");
        });
        pairs.push((bare, ours));
    }
    let bare = 1.0 / median(pairs.iter().map(|(bare, _)| *bare).collect());
    let ours = 1.0 / median(pairs.iter().map(|(_, ours)| *ours).collect());
    let ratio = median(pairs.iter().map(|(bare, ours)| bare / ours).collect());
    println!(
        "session: {ours:.0} verifications/s on one core, bare RSA-2048 of ring {bare:.0}/s, ratio {ratio:.3} \
         (medians of {turns} turns each, token of {} bytes)",
        token.len()
    );
    if is_quick || (ratio >= RATIO_MIN && ours >= PER_SECOND_MIN) {
        return ExitCode::SUCCESS;
    }
    eprintln!("session: below the target of {RATIO_MIN} and {PER_SECOND_MIN}/s");
    ExitCode::FAILURE
}
