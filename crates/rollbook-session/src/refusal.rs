//! Reasons why a token is refused: stable names for metrics, words for people.

/// Declares the reasons, each with its name. One with the name of a claim has an empty one in `ALL`.
macro_rules! refusals {
    ($(#[$attribute:meta])* pub enum $enum:ident {
        $($(#[$of_variant:meta])* $variant:ident $(($claim:ty = $empty:literal))? = $name:literal,)+
    }) => {
        $(#[$attribute])*
        pub enum $enum {
            $($(#[$of_variant])* $variant $(($claim))?,)+
        }

        impl $enum {
            /// Every reason once. Reasons with the name of a claim have an empty name here.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant $(($empty))?),+];

            /// Returns the stable name, for a metric's label and for programs.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $name,)+
                }
            }
        }
    };
}

refusals! {
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
        TokenMissing = "token_missing",
        /// The header `Authorization` or `Cookie` cannot be read.
        #[error("the Authorization or Cookie header is malformed; send Authorization: Bearer TOKEN")]
        CredentialsMalformed = "credentials_malformed",
        /// The request contains several tokens that do not agree.
        #[error("the request has several session tokens that name different sessions; send one")]
        CredentialsAmbiguous = "credentials_ambiguous",
        /// The token is longer than the limit.
        #[error("the token is longer than the limit; move custom claims out of the session token")]
        TokenTooLong = "token_too_long",
        /// The header is longer than [`HEADER_BYTES_MAX`](crate::limits::HEADER_BYTES_MAX).
        #[error("the token's header is longer than the limit")]
        HeaderTooLong = "header_too_long",
        /// An object has more members than [`CLAIMS_MAX`](crate::limits::CLAIMS_MAX).
        #[error("the token has more claims than the limit")]
        ClaimsTooMany = "claims_too_many",
        /// Claims are nested deeper than [`NESTING_MAX`](crate::limits::NESTING_MAX).
        #[error("the token's claims are nested too deeply")]
        NestingTooDeep = "nesting_too_deep",
        /// The text does not have three parts.
        #[error("the token is not a JWT: it must have three parts separated by dots")]
        NotAJwt = "not_a_jwt",
        /// A part is not base64url without padding in its only valid form.
        #[error("a part of the token is not valid base64url")]
        Base64 = "base64",
        /// The header is not a JSON object.
        #[error("the token's header is not a JSON object")]
        HeaderMalformed = "header_malformed",
        /// The claims are not a JSON object.
        #[error("the token's claims are not a JSON object")]
        ClaimsMalformed = "claims_malformed",
        /// An object has one key twice, so that two readers could read different values.
        #[error("a key occurs twice in the token")]
        DuplicateKey = "duplicate_key",
        /// The algorithm is `none`: the token is not signed.
        #[error("the token is not signed (alg none); only RS256 is accepted")]
        AlgorithmNone = "algorithm_none",
        /// The algorithm is an HMAC, to which a public key could be given as secret.
        #[error("the token's algorithm is an HMAC; only RS256 is accepted")]
        AlgorithmHmac = "algorithm_hmac",
        /// The algorithm is another one, or absent.
        #[error("the token's algorithm is not RS256")]
        Algorithm = "algorithm",
        /// The header demands an extension (`crit`).
        #[error("the token's header demands an extension (crit), and none is supported")]
        CriticalExtension = "critical_extension",
        /// The header's `typ` is not `JWT`.
        #[error("the token's type is not JWT")]
        TokenType = "token_type",
        /// An OAuth access token.
        #[error("this is an OAuth access token, not a session token")]
        OauthToken = "oauth_token",
        /// A machine-to-machine token.
        #[error("this is a machine token, not a session token")]
        MachineToken = "machine_token",
        /// An API key of Clerk.
        #[error("this is an API key, not a session token")]
        ApiKey = "api_key",
        /// A token made from a JWT template.
        #[error("this token was made from a JWT template; send the session token (getToken without a template)")]
        TemplateToken = "template_token",
        /// The header's `cat` names an unknown category of tokens.
        #[error("the token's category (cat) is not that of session tokens")]
        Category = "category",
        /// The header has no `kid`, and every configured key has one.
        #[error("the token names no key (kid), and no key without a kid is configured")]
        KeyIdMissing = "key_id_missing",
        /// No configured key has this `kid`: keys may have been rotated.
        #[error(
            "the token's key is not configured; fetch the JWKS again, or check that the token is of this instance"
        )]
        KeyUnknown = "key_unknown",
        /// The signature does not match.
        #[error("the token's signature does not match the configured key")]
        Signature = "signature",
        /// A claim that every session token has is absent.
        #[error("the claim {0} is missing")]
        ClaimMissing(&'static str = "") = "claim_missing",
        /// A claim has another type or form.
        #[error("the claim {0} is not valid")]
        ClaimInvalid(&'static str = "") = "claim_invalid",
        /// There is no `sid`, as in tokens that were made from a JWT template.
        #[error("the claim sid is missing: this token belongs to no session (a JWT template's token has none)")]
        SessionMissing = "session_missing",
        /// The claims have an unknown version (`v`).
        #[error("the version of the claims (v) is not known; update rollbook-session")]
        VersionUnknown = "version_unknown",
        /// The session's status (`sts`) is unknown.
        #[error("the session's status (sts) is not known; update rollbook-session")]
        StatusUnknown = "status_unknown",
        /// Two published rules to read the permissions give different results.
        #[error(
            "the permissions in the token are ambiguous: a user feature precedes an organization feature in fea"
        )]
        PermissionsAmbiguous = "permissions_ambiguous",
        /// The token grants more permissions than the limit.
        #[error("the token's lists of features and permissions are longer than the limit")]
        PermissionsTooMany = "permissions_too_many",
        /// The token is from another issuer.
        #[error(
            "the token is from another issuer; compare the policy's issuer with the Frontend API URL of the instance"
        )]
        Issuer = "issuer",
        /// `azp` is absent, and authorized parties are configured.
        #[error("the claim azp is missing, and only configured parties are authorized")]
        PartyMissing = "party_missing",
        /// `azp` is not one of the authorized parties.
        #[error("the token was issued to a party (azp) that is not authorized")]
        Party = "party",
        /// `aud` is absent, and an audience is configured.
        #[error("the claim aud is missing, and an audience is configured")]
        AudienceMissing = "audience_missing",
        /// `aud` names others only.
        #[error("the token is for another audience (aud)")]
        Audience = "audience",
        /// `exp` has passed.
        #[error("the session token has expired; the client must send a new one")]
        Expired = "expired",
        /// `nbf` is in the future.
        #[error("the token is not valid yet (nbf); check the clock of this machine")]
        NotYetValid = "not_yet_valid",
        /// `iat` is in the future.
        #[error("the token was issued in the future (iat); check the clock of this machine")]
        IssuedInFuture = "issued_in_future",
        /// The session has unfinished tasks: the user is not signed in yet.
        #[error("the session is pending: the user has unfinished tasks, such as choosing an organization")]
        Pending = "pending",
        /// Somebody impersonates the user, and the policy refuses that.
        #[error("the session is impersonated (act), and that is refused here")]
        Impersonated = "impersonated",
    }
}
