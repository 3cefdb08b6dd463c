//! What rooms keep, promise and permit.

use serde::{Deserialize, Serialize};

use super::{ChannelProxies, DEFAULT_PROXY, Span, seconds};

section! {
    /// What rooms keep, promise and permit.
    Channels {
        /// The longest room name, in bytes.
        max_length: usize = 255,
        /// Bytes of publications that the node keeps over all of its rooms; the oldest go first.
        history_max_bytes: usize = 512 << 20,
        /// Rooms that the node knows. Over it, those go that nobody has used for the longest; a client that comes
        /// back to one of them is told that it can't recover. Rooms in use don't go.
        max_rooms: usize = 500_000,
        /// How long to remember a room's epoch and offset after its last publication, where the namespace says
        /// nothing else.
        history_meta_ttl: Span = seconds(720 * 3600),
        /// What the data of a publication must be, where the namespace says nothing else: `json`, `json_object`,
        /// `binary` (anything, also nothing), or empty: anything but nothing.
        publication_data_format: String = String::new(),
        /// Which backends are asked about rooms of namespaces that name no other.
        proxy: ChannelProxies = ChannelProxies::default(),
        /// Rooms without a `:` in their name.
        without_namespace: Channel = Channel::default(),
        /// Rooms with a namespace before the first `:` of their name.
        namespaces: Vec<Namespace> = Vec::new(),
    }
}

section! {
    /// A namespace: the options of its rooms, and its name.
    Namespace {
        /// What stands before the first `:` of the rooms' names.
        name: String = String::new(),
        /// The options, side by side with the name.
        #[serde(flatten)]
        options: Channel = Channel::default(),
    }
}

section! {
    /// The options of the rooms of one namespace.
    Channel {
        /// What rooms are: `stream`s of publications; `map`s, which keep the latest value of each key; maps of the
        /// connections (`map_clients`) or users (`map_users`) that are in other rooms; or `shared_poll`: clients track keys, which a
        /// backend is asked for.
        subscription_type: String = "stream".to_owned(),
        /// Keep who is in the room.
        presence: bool = false,
        /// Tell subscribers who joins and leaves: those that ask for it and may ask for presence.
        join_leave: bool = false,
        /// Tell it to all subscribers, asked or not.
        force_push_join_leave: bool = false,
        /// The most publications to keep. History needs this and `history_ttl`.
        history_size: usize = 0,
        /// How long to keep a publication.
        history_ttl: Span = seconds(0),
        /// With `log = "disk"`: the most bytes of a room's publications to keep on disk, copies not counted; the oldest go, a
        /// while after there are more. 0: no limit.
        history_bytes: u64 = 0,
        /// How long to remember a room's epoch and offset after its last publication. 0: what
        /// `channel.history_meta_ttl` says.
        history_meta_ttl: Span = seconds(0),
        /// Where history survives: `memory` (of the nodes with a copy, as long as one of them lives), or `disk` (theirs,
        /// so that it outlives them all; a publication is acknowledged once it is synced there). See `disk`.
        log: String = "memory".to_owned(),
        /// Watch every subscriber's position.
        force_positioning: bool = false,
        /// Watch the position of those that ask. Who may read history can ask anyway.
        allow_positioning: bool = false,
        /// Every subscriber can recover what it missed.
        force_recovery: bool = false,
        /// Those that ask can. Who may read history can ask anyway.
        allow_recovery: bool = false,
        /// `stream`: all that was missed; `cache`: the latest publication.
        force_recovery_mode: String = "stream".to_owned(),
        /// Give every subscriber the latest publication, also one that comes for the first time. Needs
        /// `force_recovery` and the recovery mode `cache`.
        auto_cache_recover: bool = false,
        /// Subscribers may ask for publications with certain tags only.
        allow_tags_filter: bool = false,
        /// The formats in which subscribers may ask for what is new against the publication before, instead of
        /// whole publications. There is one: `fossil`.
        allowed_delta_types: Vec<String> = Vec::new(),
        /// Send every publication so to those that ask, not only those published with `delta`.
        delta_publish: bool = false,
        /// What the data of a publication must be: `json`, `json_object`, `binary` (anything, also nothing), or
        /// empty: what `channel.publication_data_format` says.
        publication_data_format: String = String::new(),
        /// Clients may subscribe without a subscription token.
        allow_subscribe_for_client: bool = false,
        /// Anonymous clients may subscribe too, where clients may.
        allow_subscribe_for_anonymous: bool = false,
        /// Users may enter rooms whose names end in `#` and a list of users (`room#42`, `room#42,43`) with them in
        /// it; no one else may.
        allow_user_limited_channels: bool = false,
        /// A regular expression that names of rooms must match behind the namespace; clients get error 107 for
        /// others. Empty: any does.
        channel_regex: String = String::new(),
        /// Clients may publish.
        allow_publish_for_client: bool = false,
        /// Subscribers may publish.
        allow_publish_for_subscriber: bool = false,
        /// Anonymous clients may publish too, where clients or subscribers may.
        allow_publish_for_anonymous: bool = false,
        /// Clients may ask for presence.
        allow_presence_for_client: bool = false,
        /// Subscribers may ask for presence.
        allow_presence_for_subscriber: bool = false,
        /// Anonymous clients may ask for presence too, where clients or subscribers may.
        allow_presence_for_anonymous: bool = false,
        /// Clients may read history.
        allow_history_for_client: bool = false,
        /// Subscribers may read history.
        allow_history_for_subscriber: bool = false,
        /// Anonymous clients may read history too, where clients or subscribers may.
        allow_history_for_anonymous: bool = false,
        /// Tell the endpoint of `webhooks` who comes and goes, and when the room has its first client and when it
        /// has lost its last.
        webhooks: bool = false,
        /// Ask a backend whether a client may subscribe.
        subscribe_proxy_enabled: bool = false,
        /// Which: one of `proxies`, or `default`: `channel.proxy.subscribe`.
        subscribe_proxy_name: String = DEFAULT_PROXY.to_owned(),
        /// Ask a backend whether a client may publish, and what. It alone decides.
        publish_proxy_enabled: bool = false,
        /// Which: one of `proxies`, or `default`: `channel.proxy.publish`.
        publish_proxy_name: String = DEFAULT_PROXY.to_owned(),
        /// Ask a backend whether a subscription that ends goes on, instead of its client for a new token.
        sub_refresh_proxy_enabled: bool = false,
        /// Which: one of `proxies`, or `default`: `channel.proxy.sub_refresh`.
        sub_refresh_proxy_name: String = DEFAULT_PROXY.to_owned(),
        /// Open a stream of a backend for each subscriber: it says whether the client may subscribe, and brings what this
        /// client alone gets, beside what is published in the room. By gRPC.
        subscribe_stream_proxy_enabled: bool = false,
        /// Which: one of `proxies`, or `default`: `channel.proxy.subscribe_stream`.
        subscribe_stream_proxy_name: String = DEFAULT_PROXY.to_owned(),
        /// What the client publishes in the room goes to its stream, and nowhere else.
        subscribe_stream_proxy_bidirectional: bool = false,
        /// Groups of consumers that share the messages of a room. Needs history.
        queue: Queue = Queue::default(),
        /// What is so for maps.
        map: Map = Map::default(),
        /// Begins the names of the maps in which the connections that are in a room are kept, followed by the name of the
        /// room; of a namespace whose type is `map_clients`, like `"clients:"`. Empty: they are kept in none.
        map_clients_presence_channel_prefix: String = String::new(),
        /// The same for users; of a namespace whose type is `map_users`.
        map_users_presence_channel_prefix: String = String::new(),
        /// How often a client is asked to publish at most (the SDK sends the latest value then). 0: as it likes.
        client_publish_debounce_interval: Span = seconds(0),
        /// How keys are polled, with `subscription_type = "shared_poll"`.
        shared_poll: ChannelPoll = ChannelPoll::default(),
    }
}

section! {
    /// What is so for maps.
    Map {
        /// What a subscriber can do after it was away: load all entries again (`ephemeral`), or get the changes that it missed
        /// (`recoverable`, and `persistent`, where entries don't expire).
        mode: String = String::new(),
        /// How long an entry stays that is not put again. Needed, but for `persistent`.
        key_ttl: Span = seconds(0),
        /// How many changes a subscriber may have missed that goes on from where it was. 0: 100.
        stream_size: usize = 0,
        /// How long an empty map is remembered that nobody uses. 0: what `history_meta_ttl` says.
        meta_ttl: Span = seconds(0),
        /// Entries come by their scores, the highest first, and not by their keys.
        ordered: bool = false,
        /// The most entries of one map.
        max_keys: usize = 100_000,
        /// The entry whose key is a client's id is removed when the client leaves the room.
        remove_client_on_unsubscribe: bool = false,
        /// The key that clients write to: their own `client_id` or `user_id`. Empty: any that they name.
        client_key: String = String::new(),
        /// Clients may put values.
        allow_publish_for_client: bool = false,
        /// Subscribers may.
        allow_publish_for_subscriber: bool = false,
        /// Anonymous clients may too, where clients or subscribers may.
        allow_publish_for_anonymous: bool = false,
        /// Clients may remove values.
        allow_remove_for_client: bool = false,
        /// Subscribers may.
        allow_remove_for_subscriber: bool = false,
        /// Anonymous clients may too, where clients or subscribers may.
        allow_remove_for_anonymous: bool = false,
        /// Entries in a page, where a client does not say. 0: 100.
        default_page_size: usize = 0,
        /// The least that it may ask for. 0: 100.
        min_page_size: usize = 0,
        /// The most. 0: 1,000.
        max_page_size: usize = 0,
    }
}

section! {
    /// How the keys of a namespace's rooms are polled.
    ChannelPoll {
        /// Who is asked: one of `proxies`, or `default`: `channel.proxy.shared_poll_refresh`.
        proxy_name: String = DEFAULT_PROXY.to_owned(),
        /// What says that a key's data is new: `versionless`, the data itself, or `versioned`, the version that the backend
        /// gives it. Then it is told which version is known, and may leave out what is no newer.
        mode: String = "versionless".to_owned(),
        /// How often all keys of a room that clients track are asked for.
        refresh_interval: Span = seconds(10),
        /// The most keys of one request. The requests of a room are spread over the interval.
        refresh_batch_size: usize = 1_000,
        /// The most keys that a client may track in a room.
        max_keys_per_connection: usize = 5_000,
        /// The most keys of a room that the clients of a node may track together.
        max_keys_per_channel: usize = 100_000,
        /// How long a room is remembered that nobody of a node's clients is in any more.
        channel_shutdown_delay: Span = seconds(1),
        /// How long a key stays tracked after the signature by which it may be has expired.
        track_expired_extra_delay: Span = seconds(25),
    }
}

section! {
    /// Keys that clients track and nodes ask backends for.
    SharedPoll {
        /// The secret that the application signs with which keys a client may track.
        hmac_secret_key: String = String::new(),
        /// The secret before it, accepted as well while it is being changed.
        hmac_previous_secret_key: String = String::new(),
        /// What that has signed after this is not accepted, in seconds of Unix time. 0: all is, as long as it is here.
        hmac_previous_secret_key_valid_until: i64 = 0,
        /// The most requests for keys that a node has under way, to all backends together. 0: 64.
        concurrency_limit: usize = 64,
    }
}

section! {
    /// Groups of consumers that share the messages of a room. Needs history.
    Queue {
        /// The groups that a room may have; `*`: any. Empty: none.
        groups: Vec<String> = Vec::new(),
        /// Subscribers may consume: be given messages of a group. Subscription tokens and backends may say otherwise, by
        /// `allow`, of this and the next ones.
        allow_consume_for_client: bool = false,
        /// Anonymous ones too, where subscribers may.
        allow_consume_for_anonymous: bool = false,
        /// Who consumes may say what became of the messages that it was given. If not, the application does, by the server
        /// API.
        allow_ack_for_consumer: bool = true,
        /// Who consumes may have its group go on elsewhere, and purge or remove it.
        allow_seek_for_consumer: bool = false,
        /// How a group's messages are divided among its consumers: `shared` (each to whoever has room for it),
        /// `exclusive` (all to one, until it goes), or `key_shared` (those with the same `key` to one consumer, one after
        /// the other).
        mode: String = "shared".to_owned(),
        /// With `key_shared`: the tag by whose value they are divided. Messages without it go to anyone.
        key: String = String::new(),
        /// How long a consumer has a message before it is given to another, unless it says that it takes longer.
        ack_wait: Span = seconds(30),
        /// How long a message waits after it was given back the first time, the second, and so on, like
        /// `["1s", "10s", "1m"]`; the last is for all that follow. Empty: not at all.
        backoff: Vec<Span> = Vec::new(),
        /// How often a message is given before it is a dead letter. 0: as often as it takes.
        max_deliveries: u32 = 0,
        /// The room that dead letters go to. Empty: they are dropped, and counted.
        dead_letter: String = String::new(),
        /// The most messages that a consumer may have at a time, whatever it asks for.
        max_prefetch: u32 = 1_000,
        /// The most messages of a group that its consumers have, or that wait to be given again or later. Over it, no
        /// further ones are given.
        max_pending: usize = 100_000,
        /// The most groups of one room.
        max_groups: usize = 100,
        /// What becomes of a publication that would push one out of the history (`history_size`) that a group has not
        /// settled: `refuse` it with a temporary error, or `drop_oldest`.
        when_full: String = "refuse".to_owned(),
        /// Where a new group starts: with the `first` message that is kept, behind the `last`, at an offset like `"1000"`, or
        /// with the oldest that is no older than an age like `"1h"`.
        start: String = "first".to_owned(),
    }
}
