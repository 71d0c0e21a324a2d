//! Tokens and keys made by two other implementations: `jose` of npm and `PyJWT` of `PyPI`.
//!
//! Each test installs its pinned packages into a temporary folder, so it needs node with npm, Python with pip, and
//! the registries.

use std::path::Path;
use std::process::Command;

use rollbook_session::{KeySet, Refusal, verify};
use serde::Deserialize;

use crate::mint::{KID, NOW, at, claims, policy};

/// Output of a script: its own public key in both forms, tokens that are genuine and tokens with other algorithms.
#[derive(Deserialize)]
struct Made {
    jwks: serde_json::Value,
    pem: String,
    genuine: Vec<String>,
    algorithms: Vec<(String, String)>,
}

const JOSE: [&str; 1] = ["jose@6.2.18"];
const PYJWT: [&str; 2] = ["pyjwt==2.15.1", "cryptography==50.0.2"];

const WITH_JOSE: &str = r"
import { SignJWT, generateKeyPair, exportJWK, exportSPKI } from 'jose';
const [kid, text] = process.argv.slice(2);
const claims = JSON.parse(text);
const { publicKey, privateKey } = await generateKeyPair('RS256', { extractable: true });
const sign = (header, key) => new SignJWT(claims).setProtectedHeader({ kid, ...header }).sign(key);
const jwk = { ...(await exportJWK(publicKey)), kid, use: 'sig', alg: 'RS256' };
const other = async (alg) => [alg, await sign({ alg }, (await generateKeyPair(alg)).privateKey)];
console.log(JSON.stringify({
  jwks: { keys: [jwk] },
  pem: await exportSPKI(publicKey),
  genuine: [await sign({ alg: 'RS256' }, privateKey), await sign({ alg: 'RS256', typ: 'JWT' }, privateKey)],
  algorithms: [
    await other('RS512'), await other('PS256'), await other('ES256'), await other('EdDSA'),
    ['HS256', await sign({ alg: 'HS256' }, new TextEncoder().encode(await exportSPKI(publicKey)))],
  ],
}));
";

const WITH_PYJWT: &str = r#"
import json, sys
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
kid, claims = sys.argv[1], json.loads(sys.argv[2])
key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
public = key.public_key()
pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
jwk = {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(public)), "kid": kid, "use": "sig", "alg": "RS256"}
jwk.pop("key_ops", None)
sign = lambda alg, key: jwt.encode(claims, key, algorithm=alg, headers={"kid": kid})
print(json.dumps({
    "jwks": {"keys": [jwk]},
    "pem": pem,
    "genuine": [sign("RS256", key)],
    "algorithms": [
        ["none", sign("none", None)], ["RS384", sign("RS384", key)], ["PS256", sign("PS256", key)],
        ["ES256", sign("ES256", ec.generate_private_key(ec.SECP256R1()))], ["HS256", sign("HS256", "a secret of enough bytes for HS256")],
    ],
}))
"#;

/// Runs a command and returns its output. `purpose` says in a failed test what was attempted.
fn run(purpose: &str, command: &mut Command) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    let output =
        command.output().unwrap_or_else(|error| panic!("{purpose}: {program} cannot be started: {error}"));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{purpose}: {program} failed ({}):\n{words}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn made(script: &Path, interpreter: &mut Command) -> Made {
    let purpose = "make tokens with another implementation";
    let text = run(purpose, interpreter.arg(script).arg(KID).arg(claims().to_string()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{purpose}: {error}: {text}"))
}

fn all_verify_and_other_algorithms_do_not(made: &Made) {
    let by_jwks = KeySet::from_jwks(made.jwks.to_string().as_bytes()).expect("a JWKS");
    let by_pem = KeySet::from_pem(&made.pem).expect("a PEM");
    for keys in [&by_jwks, &by_pem] {
        for token in &made.genuine {
            let session = verify(token, keys, &policy(), at(NOW)).expect("genuine");
            assert_eq!(session.user_id(), "user_1");
            assert!(session.has_permission("org:tasks:delete"));
        }
        for (algorithm, token) in &made.algorithms {
            let expected = match algorithm.as_str() {
                "none" => Refusal::AlgorithmNone,
                "HS256" => Refusal::AlgorithmHmac,
                _ => Refusal::Algorithm,
            };
            assert_eq!(verify(token, keys, &policy(), at(NOW)).unwrap_err(), expected, "{algorithm}");
        }
    }
}

#[test]
fn tokens_and_keys_of_jose_verify() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = folder.path().join("make.mjs");
    std::fs::write(&script, WITH_JOSE).expect("it is written");
    let mut npm = Command::new("npm");
    npm.args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--prefix"]);
    run("install jose from the npm registry", npm.arg(folder.path()).args(JOSE).current_dir(folder.path()));
    all_verify_and_other_algorithms_do_not(&made(&script, &mut Command::new("node")));
}

#[test]
fn tokens_and_keys_of_pyjwt_verify() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = folder.path().join("make.py");
    std::fs::write(&script, WITH_PYJWT).expect("it is written");
    let packages = folder.path().join("packages");
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary=:all:",
        "--target",
    ]);
    run("install PyJWT from PyPI", pip.arg(&packages).args(PYJWT));
    all_verify_and_other_algorithms_do_not(&made(
        &script,
        Command::new("python3").env("PYTHONPATH", &packages),
    ));
}
