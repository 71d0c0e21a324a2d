//! Decodes the claims of both versions into a [`Session`].

use std::borrow::Cow;

use crate::grants::{self, Grants};
use crate::json::{self, Object};
use crate::limits::NAME_BYTES_MAX;
use crate::refusal::Refusal;
use crate::session::{Actor, FactorAges, Organization, Session, Version};

/// Prefix of the subject of machine-to-machine tokens.
const MACHINE: &str = "mch_";

/// Decodes claims. The caller has checked the signature, or knows that nobody has.
///
/// A claim with an unexpected type is an error, never a default. Only claims of the token's version are read, so
/// that a custom claim with a name of the other version has no effect.
pub(crate) fn decode(text: String) -> Result<Session, Refusal> {
    let claims = Object::read(&text, Refusal::ClaimsMalformed)?;
    let user_id = required(&claims, "sub")?;
    if user_id.starts_with(MACHINE) {
        return Err(Refusal::MachineToken);
    }
    let session_id = name(&claims, "sid", "sid")?.ok_or(Refusal::SessionMissing)?;
    let version = version(&claims)?;
    let (organization, features, plans) = match version {
        Version::V1 => (organization_v1(&claims)?, Grants::default(), Grants::default()),
        Version::V2 => granted(&claims)?,
    };
    let session = Session {
        version,
        user_id: user_id.into_owned(),
        session_id: session_id.into_owned(),
        token_id: owned(name(&claims, "jti", "jti")?),
        issuer: required(&claims, "iss")?.into_owned(),
        authorized_party: owned(name(&claims, "azp", "azp")?),
        audiences: audiences(&claims)?,
        expires_at: time(&claims, "exp")?.ok_or(Refusal::ClaimMissing("exp"))?,
        not_before: time(&claims, "nbf")?,
        issued_at: time(&claims, "iat")?,
        is_pending: is_pending(&claims)?,
        organization,
        features,
        plans,
        factor_ages: factor_ages(&claims)?,
        actor: actor(&claims)?,
        claims: String::new(),
    };
    drop(claims);
    Ok(Session { claims: text, ..session })
}

fn version(claims: &Object) -> Result<Version, Refusal> {
    match claims.get("v").map(json::integer) {
        None | Some(Some(1)) => Ok(Version::V1),
        Some(Some(2)) => Ok(Version::V2),
        Some(_) => Err(Refusal::VersionUnknown),
    }
}

fn is_pending(claims: &Object) -> Result<bool, Refusal> {
    match claims.get("sts").map(json::string) {
        None => Ok(false),
        Some(Some(status)) if status == "active" => Ok(false),
        Some(Some(status)) if status == "pending" => Ok(true),
        Some(_) => Err(Refusal::StatusUnknown),
    }
}

fn organization_v1(claims: &Object) -> Result<Option<Organization>, Refusal> {
    let Some(id) = name(claims, "org_id", "org_id")? else { return Ok(None) };
    let permissions = match present(claims, "org_permissions") {
        None => Vec::new(),
        Some(list) => json::strings(list).ok_or(Refusal::ClaimInvalid("org_permissions"))?,
    };
    Ok(Some(Organization {
        id: id.into_owned(),
        slug: owned(text(claims, "org_slug", "org_slug")?),
        role: required(claims, "org_role")?.into_owned(),
        permissions,
    }))
}

/// Decodes the organization, the features and the plans of version 2.
fn granted(claims: &Object) -> Result<(Option<Organization>, Grants, Grants), Refusal> {
    let features = text(claims, "fea", "fea")?.unwrap_or_default();
    let features = grants::entries(&features, "fea")?;
    let plans = text(claims, "pla", "pla")?.unwrap_or_default();
    let plans = grants::grants(&grants::entries(&plans, "pla")?);
    let organization = match present(claims, "o") {
        None => None,
        Some(object) => {
            let object = Object::read(object, Refusal::ClaimInvalid("o"))?;
            let role = name(&object, "rol", "o.rol")?.ok_or(Refusal::ClaimMissing("o.rol"))?;
            let role = if role.starts_with("org:") { role.into_owned() } else { format!("org:{role}") };
            let names = text(&object, "per", "o.per")?.unwrap_or_default();
            let masks = text(&object, "fpm", "o.fpm")?.unwrap_or_default();
            Some(Organization {
                id: name(&object, "id", "o.id")?.ok_or(Refusal::ClaimMissing("o.id"))?.into_owned(),
                slug: owned(text(&object, "slg", "o.slg")?),
                role,
                permissions: grants::permissions(&features, &names, &masks)?,
            })
        }
    };
    Ok((organization, grants::grants(&features), plans))
}

fn audiences(claims: &Object) -> Result<Vec<String>, Refusal> {
    match present(claims, "aud") {
        None => Ok(Vec::new()),
        Some(value) => match json::string(value) {
            Some(one) => Ok(vec![one.into_owned()]),
            None => json::strings(value).ok_or(Refusal::ClaimInvalid("aud")),
        },
    }
}

fn factor_ages(claims: &Object) -> Result<Option<FactorAges>, Refusal> {
    let Some(value) = present(claims, "fva") else { return Ok(None) };
    let invalid = Refusal::ClaimInvalid("fva");
    let [first, second]: [i64; 2] = serde_json::from_str(value).map_err(|_| invalid)?;
    let age = |minutes: i64| match minutes {
        -1 => Ok(None),
        minutes => u32::try_from(minutes).map(Some).map_err(|_| invalid),
    };
    Ok(Some(FactorAges { first: age(first)?, second: age(second)? }))
}

fn actor(claims: &Object) -> Result<Option<Actor>, Refusal> {
    let Some(value) = present(claims, "act") else { return Ok(None) };
    let actor = Object::read(value, Refusal::ClaimInvalid("act"))?;
    let user_id = name(&actor, "sub", "act.sub")?.ok_or(Refusal::ClaimMissing("act.sub"))?;
    Ok(Some(Actor {
        user_id: user_id.into_owned(),
        session_id: owned(name(&actor, "sid", "act.sid")?),
        issuer: owned(name(&actor, "iss", "act.iss")?),
    }))
}

/// Returns the value of a claim that is present and not null.
fn present<'a>(claims: &Object<'a>, key: &str) -> Option<&'a str> {
    claims.get(key).filter(|value| *value != "null")
}

/// Returns a text without control characters. `claim` names it in a refusal.
fn text<'a>(claims: &Object<'a>, key: &str, claim: &'static str) -> Result<Option<Cow<'a, str>>, Refusal> {
    let Some(value) = present(claims, key) else { return Ok(None) };
    let text = json::string(value).filter(|text| !text.chars().any(char::is_control));
    text.map(Some).ok_or(Refusal::ClaimInvalid(claim))
}

/// Returns an id or another name: visible ASCII, not empty, so that it is safe in a header and in a log.
fn name<'a>(claims: &Object<'a>, key: &str, claim: &'static str) -> Result<Option<Cow<'a, str>>, Refusal> {
    let Some(text) = text(claims, key, claim)? else { return Ok(None) };
    let is_valid =
        !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_valid { Ok(Some(text)) } else { Err(Refusal::ClaimInvalid(claim)) }
}

fn required<'a>(claims: &Object<'a>, key: &'static str) -> Result<Cow<'a, str>, Refusal> {
    name(claims, key, key)?.ok_or(Refusal::ClaimMissing(key))
}

/// Returns a time in seconds since 1970.
fn time(claims: &Object, key: &'static str) -> Result<Option<i64>, Refusal> {
    let Some(value) = claims.get(key) else { return Ok(None) };
    json::integer(value).map(Some).ok_or(Refusal::ClaimInvalid(key))
}

fn owned(text: Option<Cow<str>>) -> Option<String> {
    text.map(Cow::into_owned)
}
