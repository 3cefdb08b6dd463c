//! Checks tokens: signed with the right key, meant for us, and not too late or too early.

use base64::Engine as _;
use regex::Regex;
use serde::Deserialize;

use super::{
    claims::{Claims, Subscription},
    fault::{Fault, TokenError},
    grant::Credentials,
    keys::{Family, Key, Method, PublishedKeys},
};
use crate::protocol::nulls;

/// How far ahead the clocks may be that say from when on a token is valid, in seconds.
const LEEWAY: i64 = 5;

/// A key that is accepted until a moment of Unix time.
pub struct Previous {
    /// The key.
    pub key: Key,
    /// Until when, in seconds; none: as long as it is configured.
    pub until: Option<i64>,
}

/// What tokens must say, beside being signed.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Exactly this is among those that the token is for.
    pub audience: Option<String>,
    /// One of those that it is for looks like this.
    pub audience_regex: Option<Regex>,
    /// Exactly this has made it.
    pub issuer: Option<String>,
    /// Who made it looks like this.
    pub issuer_regex: Option<Regex>,
    /// The claim that says the user, if it is not `sub`.
    pub user_claim: Option<String>,
    /// Don't check signatures at all.
    pub unsigned: bool,
}

/// Checks tokens.
#[derive(Default)]
pub struct Verifier {
    /// The shared secret.
    pub secret: Option<Key>,
    /// The one before it.
    pub previous: Option<Previous>,
    /// RSA public key.
    pub rsa: Option<Key>,
    /// Public key on an elliptic curve.
    pub ec: Option<Key>,
    /// The keys that an issuer publishes; they stand in for all configured public keys.
    pub published: Option<PublishedKeys>,
    /// What tokens must say.
    pub expected: Expected,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier")
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood. None are.
    crit: Option<serde::de::IgnoredAny>,
}

impl Verifier {
    /// Accepts tokens signed with this secret.
    pub fn of_secret(secret: &str) -> Self {
        Self { secret: Some(Key::secret(secret)), ..Self::default() }
    }

    /// Whether it could accept any token.
    pub fn has_keys(&self) -> bool {
        let public = self.rsa.is_some() || self.ec.is_some() || self.published.is_some();
        self.secret.is_some() || public || self.expected.unsigned
    }

    /// Reads a connection token. `now` is Unix time in seconds.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn connection(&self, token: &str, now: i64) -> Result<Credentials, TokenError> {
        Ok(self.claims(token, now)?.connection()?)
    }

    /// Reads a subscription token.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn subscription(&self, token: &str, now: i64) -> Result<Subscription, TokenError> {
        Ok(self.claims(token, now)?.subscription()?)
    }

    fn claims(&self, token: &str, now: i64) -> Result<Claims, TokenError> {
        let (message, signature) = token.rsplit_once('.').ok_or(Fault::Parts)?;
        let (header, payload) = message.split_once('.').ok_or(Fault::Parts)?;
        let header: Header = part("header", header)?;
        if header.crit.is_some() {
            return Err(Fault::Extensions.into());
        }
        if !self.expected.unsigned {
            self.check_signature(&header, signature, message.as_bytes(), now)?;
        }
        let mut claims: Claims = part("claims", payload)?;
        if let Some(claim) = &self.expected.user_claim {
            claims.sub = custom(payload, claim)?;
        }
        self.check_parties(&claims)?;
        if let Some(nbf) = claims.nbf.filter(|nbf| nbf.0 > now.saturating_add(LEEWAY)) {
            return Err(TokenError::NotYet(nbf.0.saturating_sub(now)));
        }
        if let Some(exp) = claims.exp.filter(|exp| exp.0 <= now) {
            return Err(TokenError::Expired(now.saturating_sub(exp.0)));
        }
        Ok(claims)
    }

    fn check_signature(
        &self,
        header: &Header,
        signature: &str,
        message: &[u8],
        now: i64,
    ) -> Result<(), TokenError> {
        let alg = || header.alg.clone();
        let method = Method::named(&header.alg).ok_or_else(|| Fault::Algorithm(alg()))?;
        let verifies = |key: &Key| key.verifies(method, signature, message);
        let found;
        let (option, keys): (_, Vec<&Key>) = match (method.family(), &self.published) {
            (Family::Hmac, _) => {
                let current = |it: &&Previous| it.until.is_none_or(|until| now < until);
                let previous = self.previous.as_ref().filter(current).map(|it| &it.key);
                ("hmac_secret_key", self.secret.iter().chain(previous).collect())
            }
            (_, Some(published)) => {
                let id = header.kid.as_deref().ok_or(Fault::NoKeyId)?;
                found = published.find(id, method).ok_or(TokenError::UnknownKey)?;
                ("jwks_public_endpoint", vec![&found])
            }
            (Family::Rsa, None) => ("rsa_public_key", self.rsa.iter().collect()),
            (Family::Ec, None) => ("ecdsa_public_key", self.ec.iter().collect()),
            (Family::Ed, None) => ("jwks_public_endpoint", Vec::new()),
        };
        if keys.is_empty() {
            return Err(Fault::NoKey { alg: alg(), option }.into());
        }
        match keys.into_iter().any(verifies) {
            true => Ok(()),
            false => Err(Fault::Signature(option).into()),
        }
    }

    fn check_parties(&self, claims: &Claims) -> Result<(), Fault> {
        let expected = &self.expected;
        let for_any = |fits: &dyn Fn(&str) -> bool| {
            claims.aud.as_ref().is_some_and(|aud| aud.iter().any(fits))
        };
        let issuer = claims.iss.as_deref();
        let audience = expected.audience.as_ref().is_none_or(|it| for_any(&|aud| aud == it))
            && expected.audience_regex.as_ref().is_none_or(|it| for_any(&|aud| it.is_match(aud)));
        let issued = expected.issuer.as_deref().is_none_or(|it| issuer == Some(it))
            && (expected.issuer_regex.as_ref())
                .is_none_or(|it| issuer.is_some_and(|issuer| it.is_match(issuer)));
        match (audience, issued) {
            (true, true) => Ok(()),
            (false, _) => Err(Fault::Audience),
            (true, false) => Err(Fault::Issuer),
        }
    }
}

/// A part of a token: JSON in base64url.
fn part<T: serde::de::DeserializeOwned>(name: &'static str, part: &str) -> Result<T, Fault> {
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(part.trim_end_matches('='))
        .map_err(|error| Fault::Part(name, error.to_string()))?;
    nulls::from_slice(&json).map_err(|error| Fault::Part(name, error.to_string()))
}

/// The user as a claim of the application's own says it.
fn custom(payload: &str, claim: &str) -> Result<String, Fault> {
    let mut claims: serde_json::Map<String, serde_json::Value> = part("claims", payload)?;
    match claims.remove(claim) {
        None | Some(serde_json::Value::Null) => Ok(String::new()),
        Some(serde_json::Value::String(user)) => Ok(user),
        Some(serde_json::Value::Number(user)) => Ok(user.to_string()),
        Some(_) => Err(Fault::User(claim.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::access::{grant::Flag, keys::KeySet, sign::sign};

    /// Tokens and keys made by another library (PyJWT): all of user 42.
    const VECTORS: &str = include_str!("vectors/vectors.json");
    const KEYS: &str = include_str!("vectors/jwks.json");

    fn vector(kind: &str, name: &str) -> String {
        let vectors: Value = serde_json::from_str(VECTORS).expect("vectors are JSON");
        vectors[kind][name].as_str().expect(name).to_owned()
    }

    /// What becomes of a token, as clients are told it.
    #[derive(Debug, PartialEq, Eq)]
    enum No {
        Another,
        Invalid,
        UnknownKey,
    }

    impl From<TokenError> for No {
        fn from(error: TokenError) -> Self {
            match error {
                error if error.is_of_time() => Self::Another,
                TokenError::UnknownKey => Self::UnknownKey,
                _ => Self::Invalid,
            }
        }
    }

    fn check(verifier: &Verifier, token: &str) -> Result<String, No> {
        Ok(verifier.connection(token, 1000).map(|it| it.user.into())?)
    }

    fn verify(claims: Value) -> Result<Credentials, No> {
        let token = sign("secret", &claims).expect("signs");
        Ok(Verifier::of_secret("secret").connection(&token, 1000)?)
    }

    #[test]
    fn says_who_the_user_is_and_which_rooms_come_with_it() {
        let claims = verify(json!({
            "sub": "ann", "exp": 1001, "info": {"name": "Ann"}, "meta": {"plan": 1},
            "channels": ["a", "b"], "subs": {"b": {"b64data": "aGk=", "override": {"presence": {"value": true}}}},
        }));
        let overrides = crate::access::grant::Overrides {
            presence: Some(Flag { value: true }),
            ..Default::default()
        };
        let b = crate::access::grant::Grant { data: "hi".into(), overrides, ..Default::default() };
        let expected = Credentials {
            user: "ann".into(),
            info: r#"{"name":"Ann"}"#.into(),
            expires_at: Some(1001),
            meta: r#"{"plan":1}"#.into(),
            data: Default::default(),
            rooms: vec![("a".into(), Default::default()), ("b".into(), b)],
        };
        assert_eq!(claims, Ok(expected));
        assert_eq!(verify(json!({"exp": 1001, "expire_at": 0})).map(|it| it.expires_at), Ok(None));
        assert_eq!(
            verify(json!({"exp": 1001, "expire_at": 5})).map(|it| it.expires_at),
            Ok(Some(5))
        );
    }

    #[test]
    fn times_may_have_fractions() {
        let expires = |claims| verify(claims).map(|it| it.expires_at);
        assert_eq!(expires(json!({"exp": 1001.75, "nbf": 999.5})), Ok(Some(1001)));
        assert_eq!(expires(json!({"exp": 1e300})), Ok(Some(i64::MAX)));
        assert_eq!(expires(json!({"exp": 1000.9})), Err(No::Another));
        assert_eq!(expires(json!({"exp": "soon"})), Err(No::Invalid));
    }

    #[test]
    fn fails_closed() {
        assert_eq!(verify(json!({"sub": "ann", "exp": 1000})), Err(No::Another));
        assert_eq!(verify(json!({"sub": "ann", "nbf": 1006})), Err(No::Another));
        assert!(verify(json!({"sub": "ann", "nbf": 1005})).is_ok(), "clocks differ a little");
        assert_eq!(verify(json!({"sub": "ann", "channel": "r"})), Err(No::Invalid));
        assert_eq!(verify(json!({"sub": "ann", "b64info": "?"})), Err(No::Invalid));
        let verifier = Verifier::of_secret("other");
        let good = sign("secret", &json!({"sub": "ann"})).expect("signs");
        // {"alg":"none"} and no signature
        let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4ifQ.";
        for token in [&*good, none, "", ".", "..", "a.b.c"] {
            assert_eq!(check(&verifier, token), Err(No::Invalid), "{token}");
        }
        assert!(!Verifier::default().has_keys());
        assert_eq!(check(&Verifier::default(), &good), Err(No::Invalid));
    }

    #[test]
    fn null_claims_are_none_and_base64_goes_first() {
        let nulls = json!({"sub": null, "exp": null, "nbf": null, "expire_at": null, "aud": null, "iss": null,
            "info": null, "b64info": null, "channels": null, "subs": null, "meta": null, "channel": null,
            "override": null});
        assert_eq!(verify(nulls), Ok(Credentials::default()));
        let both = json!({"info": 1, "b64info": "Mg==", "subs": {"r": {"data": 1, "b64data": "", "info": null}}});
        let it = verify(both).expect("valid");
        assert_eq!((&it.info[..], &it.rooms[0].1.data[..]), (&b"2"[..], &b"1"[..]));
    }

    #[test]
    fn it_is_said_what_is_wrong_with_a_token() {
        let verifier = Verifier { secret: Some(Key::secret("s")), ..Default::default() };
        let why = |token: &str| verifier.connection(token, 1000).expect_err("refused").to_string();
        let signed = |claims: Value| why(&sign("s", &claims).expect("signs"));
        let for_us = Expected { audience: Some("us".into()), ..Default::default() };
        let for_us = Verifier { expected: for_us, ..Verifier::of_secret("s") };
        let stranger = sign("s", &json!({"aud": "them"})).expect("signs");
        for (why, part) in [
            (signed(json!({"exp": 940})), "expired 60 seconds ago"),
            (signed(json!({"nbf": 1090})), "in 90 seconds"),
            (signed(json!({"exp": "soon"})), "its claims can't be read: "),
            (signed(json!({"channel": "r"})), "subscription token"),
            (signed(json!({"b64info": "?"})), "(b64info) is no base64"),
            (why("x"), "three parts"),
            (why("e30.e30.x"), "its header can't be read: missing field `alg`"),
            (why("eyJhbGciOiJub25lIn0.e30."), "signed by \"none\""),
            (why(&vector("tokens", "RS256")), "signed by RS256, and there is no rsa_public_key"),
            (why(&sign("other", &json!({})).expect("signs")), "with the key of hmac_secret_key"),
            (for_us.connection(&stranger, 0).expect_err("refused").to_string(), "audience"),
        ] {
            assert!(why.contains(part), "{why}");
        }
    }

    #[test]
    fn a_subscription_token_is_for_a_user_and_a_room() {
        let claims = json!({"sub": "ann", "channel": "r", "client": "c", "exp": 1001, "info": 1});
        let token = sign("secret", &claims).expect("signs");
        let it = Verifier::of_secret("secret").subscription(&token, 1000).expect("valid");
        assert_eq!((&*it.user, &*it.room, &*it.client), ("ann", "r", "c"));
        assert_eq!((it.grant.expires_at, &it.grant.info[..]), (Some(1001), &b"1"[..]));
    }

    #[test]
    fn every_algorithm_is_checked_with_a_key_of_its_own_kind() {
        let rsa = Key::rsa(&vector("pems", "rsa")).expect("a key");
        let of_rsa = Verifier { rsa: Some(rsa), ..Default::default() };
        for name in ["RS256", "RS384", "RS512"] {
            assert_eq!(check(&of_rsa, &vector("tokens", name)), Ok("42".into()), "{name}");
        }
        let curves = [("p256", "ES256"), ("p384", "ES384"), ("p521", "ES512")];
        for (curve, name) in curves {
            let ec = Key::ec(&vector("pems", curve)).expect("a key");
            let of_ec = Verifier { ec: Some(ec), ..Default::default() };
            for (_, other) in curves {
                let expected = if other == name { Ok("42".into()) } else { Err(No::Invalid) };
                assert_eq!(check(&of_ec, &vector("tokens", other)), expected, "{curve} {other}");
            }
            assert_eq!(check(&of_rsa, &vector("tokens", name)), Err(No::Invalid));
        }
        assert!(Key::rsa("no key").is_err() && Key::ec(&vector("pems", "rsa")).is_err());
    }

    #[test]
    fn a_public_key_is_no_shared_secret() {
        let pem = vector("pems", "rsa");
        let confused = vector("tokens", "confused");
        let verifier = Verifier { rsa: Key::rsa(&pem).ok(), ..Default::default() };
        assert_eq!(check(&verifier, &confused), Err(No::Invalid));
        assert_eq!(
            check(&Verifier::of_secret(&pem), &confused),
            Ok("42".into()),
            "it is well made"
        );
    }

    #[test]
    fn published_keys_are_found_by_their_ids() {
        let published = PublishedKeys::default();
        let verifier = Verifier { published: Some(published.clone()), ..Default::default() };
        assert_eq!(check(&verifier, &vector("tokens", "RS256")), Err(No::UnknownKey));
        let set: KeySet = serde_json::from_str(KEYS).expect("a key set");
        assert_eq!(published.replace(&set), 5, "those that can be used");
        for name in ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA"] {
            assert_eq!(check(&verifier, &vector("tokens", name)), Ok("42".into()), "{name}");
        }
        assert_eq!(check(&verifier, &vector("tokens", "nokid")), Err(No::Invalid));
        // One that is for encryption, and one of another kind, are not there for this.
        for name in ["enc", "cross"] {
            assert_eq!(check(&verifier, &vector("tokens", name)), Err(No::UnknownKey));
        }
        assert_eq!(check(&verifier, &vector("tokens", "confused")), Err(No::Invalid));
    }

    #[test]
    fn the_secret_before_is_good_for_a_while() {
        let token = sign("old", &json!({"sub": "ann"})).expect("signs");
        let verifier = |until| {
            let previous = Some(Previous { key: Key::secret("old"), until });
            Verifier { previous, ..Verifier::of_secret("new") }
        };
        assert_eq!(check(&verifier(None), &token), Ok("ann".into()));
        assert_eq!(check(&verifier(Some(1001)), &token), Ok("ann".into()));
        assert_eq!(check(&verifier(Some(1000)), &token), Err(No::Invalid));
    }

    #[test]
    fn a_token_is_for_us_and_by_whom_we_trust() {
        let check = |expected: Expected, claims: Value| {
            let verifier = Verifier { expected, ..Verifier::of_secret("s") };
            check(&verifier, &sign("s", &claims).expect("signs")).is_ok()
        };
        let text = |it: &str| Some(it.to_owned());
        let regex = |it: &str| Regex::new(it).ok();
        let aud = || Expected { audience: text("us"), ..Default::default() };
        assert!(check(aud(), json!({"aud": "us"})) && check(aud(), json!({"aud": ["x", "us"]})));
        assert!(!check(aud(), json!({"aud": "x"})) && !check(aud(), json!({})));
        let aud = || Expected { audience_regex: regex("^us-[0-9]$"), ..Default::default() };
        assert!(check(aud(), json!({"aud": ["us-1"]})) && !check(aud(), json!({"aud": "us-x"})));
        let iss = || Expected { issuer: text("me"), ..Default::default() };
        assert!(check(iss(), json!({"iss": "me"})) && !check(iss(), json!({"iss": "you"})));
        let iss = || Expected { issuer_regex: regex("^me"), ..Default::default() };
        assert!(check(iss(), json!({"iss": "me2"})) && !check(iss(), json!({})));
    }

    #[test]
    fn the_user_may_be_in_a_claim_of_its_own() {
        let expected = Expected { user_claim: Some("uid".into()), ..Default::default() };
        let verifier = Verifier { expected, ..Verifier::of_secret("s") };
        let user = |claims: Value| check(&verifier, &sign("s", &claims).expect("signs"));
        assert_eq!(user(json!({"sub": "x", "uid": "ann"})), Ok("ann".into()));
        assert_eq!(user(json!({"sub": "x", "uid": 7})), Ok("7".into()));
        assert_eq!(user(json!({"sub": "x"})), Ok(String::new()));
        assert_eq!(user(json!({"uid": {}})), Err(No::Invalid));
    }
}
