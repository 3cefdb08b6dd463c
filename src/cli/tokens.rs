//! SHELL. The commands that make and check tokens.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Args;
use roomcast::{
    access::{fault::TokenError, jwks::Fetcher, keys::PublishedKeys, sign, verifier::Verifier},
    config::{Config, tokens::Tokens},
};
use serde_json::{Value, json};

/// Makes a connection token.
#[derive(Args)]
pub struct Connection {
    #[command(flatten)]
    pub serve: super::Serve,
    /// The user; without it, the token is of an anonymous one.
    #[arg(long, short, default_value = "")]
    pub user: String,
    /// Seconds that it is valid; 0: for ever.
    #[arg(long, short, default_value_t = 7 * 24 * 3600)]
    pub ttl: i64,
}

/// Makes a subscription token.
#[derive(Args)]
pub struct Subscription {
    #[command(flatten)]
    pub connection: Connection,
    /// The room.
    #[arg(long, short = 's')]
    pub channel: String,
    /// What it may do with the groups of the room, comma-separated: consume, ack, seek. Without it: what the room's
    /// namespace says.
    #[arg(long, value_delimiter = ',', value_parser = ["consume", "ack", "seek"])]
    pub allow: Option<Vec<String>>,
}

/// Checks a token.
#[derive(Args)]
pub struct Check {
    #[command(flatten)]
    pub serve: super::Serve,
    /// The token.
    pub token: String,
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn of_subscriptions(config: &Config) -> &Tokens {
    config.subscription_tokens.as_ref().unwrap_or(&config.tokens)
}

fn sign(tokens: &Tokens, mut claims: Value, ttl: i64) -> anyhow::Result<()> {
    anyhow::ensure!(
        !tokens.secret().is_empty(),
        "there is no hmac_secret_key in the configuration to sign with"
    );
    claims["iat"] = now().into();
    if ttl > 0 {
        claims["exp"] = now().saturating_add(ttl).into();
    }
    super::print(&format!("{}\n", sign::sign(tokens.secret(), &claims)?));
    Ok(())
}

impl Connection {
    pub fn make(&self, config: &Config) -> anyhow::Result<()> {
        sign(&config.tokens, json!({"sub": self.user}), self.ttl)
    }
}

impl Subscription {
    pub fn make(&self, config: &Config) -> anyhow::Result<()> {
        let Connection { user, ttl, .. } = &self.connection;
        let mut claims = json!({"sub": user, "channel": self.channel});
        if let Some(allow) = &self.allow {
            claims["allow"] = json!(allow);
        }
        sign(of_subscriptions(config), claims, *ttl)
    }
}

impl Check {
    pub fn connection(&self, config: &Config) -> anyhow::Result<()> {
        let it = verifier(&config.tokens)?.connection(&self.token, now()).map_err(|why| {
            let told = match why.is_of_time() {
                true => "error 109, upon which SDKs ask for another one",
                false => "close code 3500, upon which SDKs stop",
            };
            refused(&why, told)
        })?;
        let rooms: Vec<&str> = it.rooms.iter().map(|(room, _)| room.as_str()).collect();
        super::print(&format!("valid: user {:?}, info {:?}, rooms {rooms:?}\n", it.user, it.info));
        print_end(it.expires_at);
        Ok(())
    }

    pub fn subscription(&self, config: &Config) -> anyhow::Result<()> {
        let tokens = of_subscriptions(config);
        let it = verifier(tokens)?.subscription(&self.token, now()).map_err(|why| {
            let told = match why.is_of_time() {
                true => "error 109, upon which SDKs ask for another one",
                false => "error 103, upon which SDKs give the room up",
            };
            refused(&why, told)
        })?;
        anyhow::ensure!(
            !it.room.is_empty(),
            "the token is refused: it names no room (`channel`); is it a connection token, for checktoken?"
        );
        super::print(&format!(
            "valid: user {:?}, channel {:?}, info {:?}\n",
            it.user, it.room, it.grant.info
        ));
        print_end(it.grant.expires_at);
        Ok(())
    }
}

/// What checks tokens as a node would; the keys that are published are fetched for it.
fn verifier(tokens: &Tokens) -> anyhow::Result<Verifier> {
    let keys = PublishedKeys::default();
    if let Some(url) = tokens.keys_url() {
        actix_rt::System::new()
            .block_on(Fetcher::once(url, keys.clone()))
            .with_context(|| format!("the keys of tokens can't be fetched from {url}"))?;
    }
    Ok(tokens.verifier(Some(keys))?)
}

fn refused(why: &TokenError, told: &str) -> anyhow::Error {
    anyhow::anyhow!("the token is refused: {why}. A client that brings it is told: {told}.")
}

fn print_end(expires_at: Option<i64>) {
    match expires_at {
        Some(at) => super::print(&format!(
            "what it gives ends in {} seconds unless it is refreshed\n",
            at - now()
        )),
        None => super::print("what it gives does not end\n"),
    }
}
