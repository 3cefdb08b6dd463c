//! Why a token is not accepted: what clients are told by, and in words for whoever looks into it.

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It was valid once. The client should get a new one.
    #[error("it has expired {0} seconds ago (`exp`)")]
    Expired(i64),
    /// It will be valid. The client should get a new one, which by then may be.
    #[error(
        "it is not valid yet, but in {0} seconds (`nbf`): is the clock right, here and where it was signed?"
    )]
    NotYet(i64),
    /// It never was, or is not meant for this.
    #[error("{0}")]
    Invalid(#[from] Fault),
    /// It names a public key that was not there when the keys were fetched last.
    #[error("the key that it names (`kid`) is not among those of jwks_public_endpoint")]
    UnknownKey,
}

impl TokenError {
    /// Whether another token helps, and so the client should ask for one.
    pub fn is_of_time(&self) -> bool {
        matches!(self, Self::Expired(_) | Self::NotYet(_))
    }
}

/// What is wrong with a token that is never valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It does not look like a token.
    #[error("it is no JSON web token, which has three parts with dots between them")]
    Parts,
    /// A part can't be read.
    #[error("its {0} can't be read: {1}")]
    Part(&'static str, String),
    /// It asks for what we don't know.
    #[error("it has extensions that must be understood (`crit`), and none are")]
    Extensions,
    /// It is not signed, or in a way that is not accepted.
    #[error("it is signed by {0:?}, not by one of HS, RS and ES with 256, 384 or 512, or EdDSA")]
    Algorithm(String),
    /// There is nothing to check it with.
    #[error("it is signed by {alg}, and there is no {option} to check that with")]
    NoKey {
        /// How it is signed.
        alg: String,
        /// The option that would have the key.
        option: &'static str,
    },
    /// Its signature is not right.
    #[error("it is not signed with the key of {0}, or was changed since")]
    Signature(&'static str),
    /// It does not say by which of the keys that are published it is signed.
    #[error("it names no key (`kid`) among those of jwks_public_endpoint")]
    NoKeyId,
    /// It is for others.
    #[error("it is not for the audience that is configured (`aud`)")]
    Audience,
    /// Others made it.
    #[error("it is not by the issuer that is configured (`iss`)")]
    Issuer,
    /// The claim that is configured to say the user can't.
    #[error("its user, {0}, is neither a text nor a number")]
    User(String),
    /// It is for a room.
    #[error("it is a subscription token (it has a `channel`), and no connection token")]
    ForRoom,
    /// Something in base64 is not.
    #[error("what it says in base64 ({0}) is no base64")]
    Base64(&'static str),
}
