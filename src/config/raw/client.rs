//! What clients may do, and how their tokens are checked.

use serde::{Deserialize, Serialize};

use super::{ClientProxies, Span, seconds};

section! {
    /// What clients may do.
    Client {
        /// Let everyone in without a token and permit everything. For development only.
        insecure: bool = false,
        /// Let clients in that have no token, as anonymous ones.
        allow_anonymous_connect_without_token: bool = false,
        /// Origins (`https://example.com`, `*` stands for anything) of pages that may connect. Empty: only
        /// clients that send no Origin header, so no browsers.
        allowed_origins: Vec<String> = Vec::new(),
        /// Let no one in whose token names no user (3507).
        disallow_anonymous_connection_tokens: bool = false,
        /// A header of the upgrade request that names the user of a client without a token. Only behind a proxy
        /// that sets it on every request: whoever can send it is whoever it says. Empty: none.
        user_id_http_header: String = String::new(),
        /// Which backends are asked about connections.
        proxy: ClientProxies = ClientProxies::default(),
        /// How tokens are checked: those of connections, and of subscriptions unless `subscription_token` is on.
        token: Token = Token::default(),
        /// How subscription tokens are checked, if otherwise.
        subscription_token: SubscriptionToken = SubscriptionToken::default(),
        /// Rooms that the server puts every client into.
        subscribe_to: Vec<String> = Vec::new(),
        /// A room of its own that the server puts each user into.
        subscribe_to_user_personal_channel: PersonalChannel = PersonalChannel::default(),
        /// How long a client whose token has expired may take to bring a new one.
        expired_close_delay: Span = seconds(25),
        /// How long it may for a subscription.
        expired_sub_close_delay: Span = seconds(25),
        /// The most clients that the node takes; more are answered with 503. 0: any number.
        connection_limit: usize = 0,
        /// The most new clients in a second; more are answered with 503. 0: any number.
        connection_rate_limit: u32 = 0,
        /// The most clients of the node from one IP address (of IPv6: from one /64 network); more are answered
        /// with 503. 0: any number.
        ip_connection_limit: u32 = 0,
        /// The most new clients in a second from one IP address; more are answered with 503. 0: any number.
        ip_connection_rate_limit: u32 = 0,
        /// The most clients of the node of one user; more are closed with 3504. 0: any number.
        user_connection_limit: usize = 0,
        /// The most rooms that one client may be in.
        channel_limit: usize = 128,
        /// Bytes that may wait for one client; more, and it is closed with 3008.
        queue_max_size: usize = 1 << 20,
        /// How long a client may take nothing of what waits for it; then it is closed with 3009. 0: for ever.
        write_timeout: Span = seconds(1),
        /// Commands of one client that may wait for their answers; meanwhile no more are read of it.
        concurrency: usize = 512,
        /// The most publications that one history call returns. Nor are they more than 7/8 of
        /// `queue_max_size`.
        history_max_publication_limit: usize = 300,
        /// The most publications that a recovery brings, and no more than 7/8 of `queue_max_size`; a client
        /// that missed more gets `recovered: false`.
        recovery_max_publication_limit: usize = 300,
        /// Time between pings of the server. 0: none.
        ping_interval: Span = seconds(25),
        /// Time in which a pong must come. 0: no pongs.
        pong_timeout: Span = seconds(8),
        /// Time in which a new connection must authenticate.
        stale_close_delay: Span = seconds(10),
    }
}

/// The options of both kinds of tokens are the same.
macro_rules! token_section {
    ($(#[$doc:meta])* $name:ident { $($first:tt)* }) => {
        section! {
            $(#[$doc])*
            $name {
                $($first)*
                /// Secret of tokens signed by HS256, HS384 or HS512.
                hmac_secret_key: String = String::new(),
                /// The secret before it, accepted as well while it is being changed.
                hmac_previous_secret_key: String = String::new(),
                /// Until when that is accepted, in seconds of Unix time. 0: as long as it is here.
                hmac_previous_secret_key_valid_until: i64 = 0,
                /// Public key, in PEM, of tokens signed by RS256, RS384 or RS512.
                rsa_public_key: String = String::new(),
                /// Public key, in PEM, of tokens signed by ES256 (P-256), ES384 (P-384) or ES512 (P-521).
                ecdsa_public_key: String = String::new(),
                /// URL of the keys (JSON web key set) of tokens signed by RS…, ES… or EdDSA. A token must name its
                /// key (`kid`). They are fetched at the start, every hour, and when a token names a key that is not
                /// among them, but no more than every five seconds. Stands in for the two public keys; tokens signed with
                /// the secret are accepted beside, if there is one. No template: what is in it is fetched as it is.
                jwks_public_endpoint: String = String::new(),
                /// Whom tokens must be for (`aud`). Empty: anyone.
                audience: String = String::new(),
                /// A regular expression that one of those whom a token is for must match. Empty: any does.
                audience_regex: String = String::new(),
                /// Who must have made them (`iss`). Empty: anyone.
                issuer: String = String::new(),
                /// A regular expression that whoever made them must match. Empty: anyone does.
                issuer_regex: String = String::new(),
                /// The claim that says the user. Empty: `sub`.
                user_id_claim: String = String::new(),
                /// Don't check signatures. For development only: anyone is whoever they say.
                insecure_skip_signature_verify: bool = false,
            }
        }
    };
}

token_section! {
    /// How tokens are checked. Without any key, none is valid.
    Token {}
}

token_section! {
    /// How subscription tokens are checked, if otherwise than connection tokens.
    SubscriptionToken {
        /// Check them by what is here. Off: by `client.token`.
        enabled: bool = false,
    }
}

section! {
    /// A room of its own that the server puts each user into.
    PersonalChannel {
        /// Put each user into the room `#USER`.
        enabled: bool = false,
        /// The namespace of these rooms. Empty: none.
        personal_channel_namespace: String = String::new(),
        /// Let each user have one connection, on whichever node: the newest. The ones before are closed with
        /// 3504.
        single_connection: bool = false,
    }
}
