//! Decodes the claims of both versions into a [`Session`].

use crate::grants::{self, Grants, Permissions};
use crate::json::{Member, Object};
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
        user_id: user_id.to_owned(),
        session_id: session_id.to_owned(),
        token_id: owned(name(&claims, "jti", "jti")?),
        issuer: required(&claims, "iss")?.to_owned(),
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
    match claims.get("v").map(Member::integer) {
        None | Some(Some(1)) => Ok(Version::V1),
        Some(Some(2)) => Ok(Version::V2),
        Some(_) => Err(Refusal::VersionUnknown),
    }
}

fn is_pending(claims: &Object) -> Result<bool, Refusal> {
    match claims.get("sts").map(Member::text) {
        None | Some(Some("active")) => Ok(false),
        Some(Some("pending")) => Ok(true),
        Some(_) => Err(Refusal::StatusUnknown),
    }
}

fn organization_v1(claims: &Object) -> Result<Option<Organization>, Refusal> {
    let Some(id) = name(claims, "org_id", "org_id")? else { return Ok(None) };
    let permissions = match present(claims, "org_permissions") {
        None => Permissions::default(),
        Some(list) => {
            let keys = list.texts().ok_or(Refusal::ClaimInvalid("org_permissions"))?;
            Permissions::from_keys(&keys, "org_permissions")?
        }
    };
    Ok(Some(Organization {
        id: id.to_owned(),
        slug: owned(text(claims, "org_slug", "org_slug")?),
        role: required(claims, "org_role")?.to_owned(),
        permissions,
    }))
}

/// Decodes the organization, the features and the plans of version 2.
fn granted(claims: &Object) -> Result<(Option<Organization>, Grants, Grants), Refusal> {
    let features = Grants::read(text(claims, "fea", "fea")?.unwrap_or_default(), "fea")?;
    let plans = Grants::read(text(claims, "pla", "pla")?.unwrap_or_default(), "pla")?;
    let organization = match present(claims, "o") {
        None => None,
        Some(member) => {
            let object = member.object().ok_or(Refusal::ClaimInvalid("o"))?;
            let role = name(object, "rol", "o.rol")?.ok_or(Refusal::ClaimMissing("o.rol"))?;
            let role = if role.starts_with("org:") { role.to_owned() } else { format!("org:{role}") };
            let names = text(object, "per", "o.per")?.unwrap_or_default();
            let masks = text(object, "fpm", "o.fpm")?.unwrap_or_default();
            Some(Organization {
                id: name(object, "id", "o.id")?.ok_or(Refusal::ClaimMissing("o.id"))?.to_owned(),
                slug: owned(text(object, "slg", "o.slg")?),
                role,
                permissions: grants::permissions(&features, names, masks)?,
            })
        }
    };
    Ok((organization, features, plans))
}

fn audiences(claims: &Object) -> Result<Vec<String>, Refusal> {
    match present(claims, "aud") {
        None => Ok(Vec::new()),
        Some(member) => match member.text() {
            Some(one) => Ok(vec![one.to_owned()]),
            None => member.texts().ok_or(Refusal::ClaimInvalid("aud")),
        },
    }
}

fn factor_ages(claims: &Object) -> Result<Option<FactorAges>, Refusal> {
    let Some(member) = present(claims, "fva") else { return Ok(None) };
    let invalid = Refusal::ClaimInvalid("fva");
    let pair = member.raw().strip_prefix('[').and_then(|list| list.strip_suffix(']'));
    let (first, second) = pair.and_then(|list| list.split_once(',')).ok_or(invalid)?;
    let age = |minutes: &str| match minutes.trim_ascii().parse::<i64>() {
        Ok(-1) => Ok(None),
        Ok(minutes) => u32::try_from(minutes).map(Some).map_err(|_| invalid),
        Err(_) => Err(invalid),
    };
    Ok(Some(FactorAges { first: age(first)?, second: age(second)? }))
}

fn actor(claims: &Object) -> Result<Option<Actor>, Refusal> {
    let Some(member) = present(claims, "act") else { return Ok(None) };
    let actor = member.object().ok_or(Refusal::ClaimInvalid("act"))?;
    let user_id = name(actor, "sub", "act.sub")?.ok_or(Refusal::ClaimMissing("act.sub"))?;
    Ok(Some(Actor {
        user_id: user_id.to_owned(),
        session_id: owned(name(actor, "sid", "act.sid")?),
        issuer: owned(name(actor, "iss", "act.iss")?),
    }))
}

/// Returns a claim that is present and not null.
fn present<'o, 'a>(claims: &'o Object<'a>, key: &str) -> Option<&'o Member<'a>> {
    claims.get(key).filter(|member| member.raw() != "null")
}

/// Returns a text without control characters. `claim` names it in a refusal.
fn text<'o>(claims: &'o Object, key: &str, claim: &'static str) -> Result<Option<&'o str>, Refusal> {
    let Some(member) = present(claims, key) else { return Ok(None) };
    let has_control = |text: &str| {
        let is_plain = text.bytes().fold(true, |is_plain, byte| is_plain & (0x20..0x7f).contains(&byte));
        !is_plain && text.contains(char::is_control)
    };
    let text = member.text().filter(|text| !has_control(text));
    text.map(Some).ok_or(Refusal::ClaimInvalid(claim))
}

/// Returns an id or another name: visible ASCII, not empty, so that it is safe in a header and in a log.
fn name<'o>(claims: &'o Object, key: &str, claim: &'static str) -> Result<Option<&'o str>, Refusal> {
    let Some(member) = present(claims, key) else { return Ok(None) };
    let is_valid = |text: &str| {
        // A fold, not `all`: it needs no branch for each byte.
        let is_visible = text.bytes().fold(true, |is_visible, byte| is_visible & byte.is_ascii_graphic());
        (1..=NAME_BYTES_MAX).contains(&text.len()) && is_visible
    };
    let text = member.text().filter(|text| is_valid(text));
    text.map(Some).ok_or(Refusal::ClaimInvalid(claim))
}

fn required<'o>(claims: &'o Object, key: &'static str) -> Result<&'o str, Refusal> {
    name(claims, key, key)?.ok_or(Refusal::ClaimMissing(key))
}

/// Returns a time in seconds since 1970.
fn time(claims: &Object, key: &'static str) -> Result<Option<i64>, Refusal> {
    let Some(member) = claims.get(key) else { return Ok(None) };
    member.integer().map(Some).ok_or(Refusal::ClaimInvalid(key))
}

fn owned(text: Option<&str>) -> Option<String> {
    text.map(str::to_owned)
}
