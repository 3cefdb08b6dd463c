//! Who may connect, who a client is, and what it is given: limits, tokens, and what they say.
//!
//! In: a token as the client sent it, the wall clock. Out: [`grant::Credentials`] of a connection or the
//! [`grant::Grant`] of a subscription, or why there are none. [`keys`] knows which key a token must be signed
//! with, [`verifier`] checks it, [`claims`] reads what it says, [`fault`] is what can be wrong with it, [`sign`] makes
//! one for tests and operators; [`connection_limits`] says how many connections there may be: all pure. [`jwks`] is the
//! shell that fetches public keys, [`connection_counter`] the one that counts.

pub mod claims;
pub mod connection_counter;
pub mod connection_limits;
pub mod fault;
pub mod grant;
pub mod jwks;
pub mod keys;
pub mod sign;
pub mod verifier;
