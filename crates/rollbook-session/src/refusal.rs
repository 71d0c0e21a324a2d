//! Reasons why a token is refused: stable names for metrics, words for people.

/// Reason why a request has no session.
///
/// Neither the name nor the words contain a part of the token, so both may be logged and sent to the caller.
///
/// ```
/// use rollbook_session::Refusal;
///
/// assert_eq!(Refusal::Expired.name(), "expired");
/// assert!(Refusal::Expired.to_string().starts_with("the session token has expired"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Neither `Authorization: Bearer` nor a `__session` cookie was sent.
    #[error("no session token; send Authorization: Bearer TOKEN or the __session cookie")]
    TokenMissing,
    /// The header `Authorization` or `Cookie` cannot be read.
    #[error("the Authorization or Cookie header is malformed; send Authorization: Bearer TOKEN")]
    CredentialsMalformed,
    /// The request contains several tokens that do not agree.
    #[error("the request has several session tokens that name different sessions; send one")]
    CredentialsAmbiguous,
    /// The token is longer than the limit.
    #[error("the token is longer than the limit; move custom claims out of the session token")]
    TokenTooLong,
    /// The header is longer than [`HEADER_BYTES_MAX`](crate::limits::HEADER_BYTES_MAX).
    #[error("the token's header is longer than the limit")]
    HeaderTooLong,
    /// An object has more members than [`CLAIMS_MAX`](crate::limits::CLAIMS_MAX).
    #[error("the token has more claims than the limit")]
    ClaimsTooMany,
    /// Claims are nested deeper than [`NESTING_MAX`](crate::limits::NESTING_MAX).
    #[error("the token's claims are nested too deeply")]
    NestingTooDeep,
    /// The text does not have three parts.
    #[error("the token is not a JWT: it must have three parts separated by dots")]
    NotAJwt,
    /// A part is not base64url without padding in its only valid form.
    #[error("a part of the token is not valid base64url")]
    Base64,
    /// The header is not a JSON object.
    #[error("the token's header is not a JSON object")]
    HeaderMalformed,
    /// The claims are not a JSON object.
    #[error("the token's claims are not a JSON object")]
    ClaimsMalformed,
    /// An object has one key twice, so that two readers could read different values.
    #[error("a key occurs twice in the token")]
    DuplicateKey,
    /// The algorithm is `none`: the token is not signed.
    #[error("the token is not signed (alg none); only RS256 is accepted")]
    AlgorithmNone,
    /// The algorithm is an HMAC, to which a public key could be given as secret.
    #[error("the token's algorithm is an HMAC; only RS256 is accepted")]
    AlgorithmHmac,
    /// The algorithm is another one, or absent.
    #[error("the token's algorithm is not RS256")]
    Algorithm,
    /// The header demands an extension (`crit`).
    #[error("the token's header demands an extension (crit), and none is supported")]
    CriticalExtension,
    /// The header's `typ` is not `JWT`.
    #[error("the token's type is not JWT")]
    TokenType,
    /// An OAuth access token.
    #[error("this is an OAuth access token, not a session token")]
    OauthToken,
    /// A machine-to-machine token.
    #[error("this is a machine token, not a session token")]
    MachineToken,
    /// An API key of Clerk.
    #[error("this is an API key, not a session token")]
    ApiKey,
    /// A token made from a JWT template.
    #[error("this token was made from a JWT template; send the session token (getToken without a template)")]
    TemplateToken,
    /// The header's `cat` names an unknown category of tokens.
    #[error("the token's category (cat) is not that of session tokens")]
    Category,
    /// The header has no `kid`, and every configured key has one.
    #[error("the token names no key (kid), and no key without a kid is configured")]
    KeyIdMissing,
    /// No configured key has this `kid`: keys may have been rotated.
    #[error(
        "the token's key is not configured; fetch the JWKS again, or check that the token is of this instance"
    )]
    KeyUnknown,
    /// The signature does not match.
    #[error("the token's signature does not match the configured key")]
    Signature,
    /// A claim that every session token has is absent.
    #[error("the claim {0} is missing")]
    ClaimMissing(&'static str),
    /// A claim has another type or form.
    #[error("the claim {0} is not valid")]
    ClaimInvalid(&'static str),
    /// There is no `sid`, as in tokens that were made from a JWT template.
    #[error("the claim sid is missing: this token belongs to no session (a JWT template's token has none)")]
    SessionMissing,
    /// The claims have an unknown version (`v`).
    #[error("the version of the claims (v) is not known; update rollbook-session")]
    VersionUnknown,
    /// The session's status (`sts`) is unknown.
    #[error("the session's status (sts) is not known; update rollbook-session")]
    StatusUnknown,
    /// Two published rules to read the permissions give different results.
    #[error(
        "the permissions in the token are ambiguous: a user feature precedes an organization feature in fea"
    )]
    PermissionsAmbiguous,
    /// The token grants more permissions than the limit.
    #[error("the token's lists of features and permissions are longer than the limit")]
    PermissionsTooMany,
    /// The token is from another issuer.
    #[error(
        "the token is from another issuer; compare the policy's issuer with the Frontend API URL of the instance"
    )]
    Issuer,
    /// `azp` is absent, and authorized parties are configured.
    #[error("the claim azp is missing, and only configured parties are authorized")]
    PartyMissing,
    /// `azp` is not one of the authorized parties.
    #[error("the token was issued to a party (azp) that is not authorized")]
    Party,
    /// `aud` is absent, and an audience is configured.
    #[error("the claim aud is missing, and an audience is configured")]
    AudienceMissing,
    /// `aud` names others only.
    #[error("the token is for another audience (aud)")]
    Audience,
    /// `exp` has passed.
    #[error("the session token has expired; the client must send a new one")]
    Expired,
    /// `nbf` is in the future.
    #[error("the token is not valid yet (nbf); check the clock of this machine")]
    NotYetValid,
    /// `iat` is in the future.
    #[error("the token was issued in the future (iat); check the clock of this machine")]
    IssuedInFuture,
    /// The session has unfinished tasks: the user is not signed in yet.
    #[error("the session is pending: the user has unfinished tasks, such as choosing an organization")]
    Pending,
    /// Somebody impersonates the user, and the policy refuses that.
    #[error("the session is impersonated (act), and that is refused here")]
    Impersonated,
}

impl Refusal {
    /// Every reason once. Reasons with the name of a claim have an empty name here.
    pub const ALL: [Self; 42] = [
        Self::TokenMissing,
        Self::CredentialsMalformed,
        Self::CredentialsAmbiguous,
        Self::TokenTooLong,
        Self::HeaderTooLong,
        Self::ClaimsTooMany,
        Self::NestingTooDeep,
        Self::NotAJwt,
        Self::Base64,
        Self::HeaderMalformed,
        Self::ClaimsMalformed,
        Self::DuplicateKey,
        Self::AlgorithmNone,
        Self::AlgorithmHmac,
        Self::Algorithm,
        Self::CriticalExtension,
        Self::TokenType,
        Self::OauthToken,
        Self::MachineToken,
        Self::ApiKey,
        Self::TemplateToken,
        Self::Category,
        Self::KeyIdMissing,
        Self::KeyUnknown,
        Self::Signature,
        Self::ClaimMissing(""),
        Self::ClaimInvalid(""),
        Self::SessionMissing,
        Self::VersionUnknown,
        Self::StatusUnknown,
        Self::PermissionsAmbiguous,
        Self::PermissionsTooMany,
        Self::Issuer,
        Self::PartyMissing,
        Self::Party,
        Self::AudienceMissing,
        Self::Audience,
        Self::Expired,
        Self::NotYetValid,
        Self::IssuedInFuture,
        Self::Pending,
        Self::Impersonated,
    ];

    /// Returns the stable name, for a metric's label and for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TokenMissing => "token_missing",
            Self::CredentialsMalformed => "credentials_malformed",
            Self::CredentialsAmbiguous => "credentials_ambiguous",
            Self::TokenTooLong => "token_too_long",
            Self::HeaderTooLong => "header_too_long",
            Self::ClaimsTooMany => "claims_too_many",
            Self::NestingTooDeep => "nesting_too_deep",
            Self::NotAJwt => "not_a_jwt",
            Self::Base64 => "base64",
            Self::HeaderMalformed => "header_malformed",
            Self::ClaimsMalformed => "claims_malformed",
            Self::DuplicateKey => "duplicate_key",
            Self::AlgorithmNone => "algorithm_none",
            Self::AlgorithmHmac => "algorithm_hmac",
            Self::Algorithm => "algorithm",
            Self::CriticalExtension => "critical_extension",
            Self::TokenType => "token_type",
            Self::OauthToken => "oauth_token",
            Self::MachineToken => "machine_token",
            Self::ApiKey => "api_key",
            Self::TemplateToken => "template_token",
            Self::Category => "category",
            Self::KeyIdMissing => "key_id_missing",
            Self::KeyUnknown => "key_unknown",
            Self::Signature => "signature",
            Self::ClaimMissing(_) => "claim_missing",
            Self::ClaimInvalid(_) => "claim_invalid",
            Self::SessionMissing => "session_missing",
            Self::VersionUnknown => "version_unknown",
            Self::StatusUnknown => "status_unknown",
            Self::PermissionsAmbiguous => "permissions_ambiguous",
            Self::PermissionsTooMany => "permissions_too_many",
            Self::Issuer => "issuer",
            Self::PartyMissing => "party_missing",
            Self::Party => "party",
            Self::AudienceMissing => "audience_missing",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::IssuedInFuture => "issued_in_future",
            Self::Pending => "pending",
            Self::Impersonated => "impersonated",
        }
    }
}
