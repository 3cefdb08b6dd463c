//! SHELL. What the node counts, by the names under which operators read it.

use prometheus::{
    Encoder as _, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Upper bounds of what latencies are counted by, in seconds.
const LATENCIES: [f64; 12] =
    [0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0];

macro_rules! metrics {
    ($($(#[$doc:meta])* $field:ident: $kind:ident = $name:literal, $help:literal $(, [$($label:literal),+])?;)+) => {
        /// Every metric of a node.
        #[derive(Debug, Clone)]
        pub struct Metrics {
            registry: Registry,
            $($(#[$doc])* pub $field: $kind,)+
        }

        impl Metrics {
            fn registered() -> Result<Self, prometheus::Error> {
                let registry = Registry::new();
                $(
                    let opts = Opts::new(concat!("roomcast_", $name), $help);
                    let $field = metrics!(@new $kind, opts $(, [$($label),+])?)?;
                    registry.register(Box::new($field.clone()))?;
                )+
                Ok(Self { registry, $($field,)+ })
            }
        }
    };
    (@new IntCounter, $opts:ident) => { IntCounter::with_opts($opts) };
    (@new Gauge, $opts:ident) => { Gauge::with_opts($opts) };
    (@new IntGauge, $opts:ident) => { IntGauge::with_opts($opts) };
    (@new IntCounterVec, $opts:ident, [$($label:literal),+]) => { IntCounterVec::new($opts, &[$($label),+]) };
    (@new Histogram, $opts:ident) => {
        Histogram::with_opts(HistogramOpts::from($opts).buckets(LATENCIES.to_vec()))
    };
    (@new IntGaugeVec, $opts:ident, [$($label:literal),+]) => { IntGaugeVec::new($opts, &[$($label),+]) };
}

metrics! {
    /// Open client connections.
    connections: IntGauge = "connections", "Open client connections.";
    /// Connections since the start.
    connections_opened: IntCounter = "connections_opened_total", "Client connections opened since the start.";
    /// Connections refused for a limit.
    connections_refused: IntCounter = "connections_refused_total", "Client connections refused (503) because a limit of client.*connection*limit was reached.";
    /// Connections that the server closed, by close code.
    disconnects: IntCounterVec = "disconnects_total", "Connections that the server closed, by close code. 3008 and 3009: the client read too slowly.", ["code"];
    /// Subscriptions of this node's clients.
    subscriptions: IntGauge = "subscriptions", "Subscriptions of this node's clients.";
    /// Rooms known.
    rooms: IntGauge = "rooms", "Rooms that this node knows, as home or as mirror.";
    /// Of these, those on disk that are out of memory.
    dormant_rooms: IntGauge = "dormant_rooms", "Rooms on disk that nobody uses, which are out of memory.";
    /// Rooms whose acknowledgements do without a successor.
    rooms_behind: IntGauge = "rooms_behind", "Rooms at home here that acknowledge without a node that is to keep a copy, because it or its disk is too slow.";
    /// The longest input of the room registry.
    longest_input: Gauge = "registry_longest_input_seconds", "Longest that one input kept all rooms of this node waiting, of the last minute or two.";
    /// History kept.
    history_bytes: IntGauge = "history_bytes", "Bytes of publications that this node keeps, as home or as mirror.";
    /// Groups of consumers.
    queue_groups: IntGauge = "queue_groups", "Groups of consumers that this node knows, as home or as mirror.";
    /// What has come of messages of groups.
    queue_messages: IntCounterVec = "queue_messages_total", "Messages of groups whose home is this node: given to a consumer (delivered; redelivered: of those, again), acked, dead (given up), expired (their ttl was over), lost (not kept any more before they were settled), and stale (what was said of them came too late).", ["outcome"];
    /// Messages from clients.
    messages_received: IntCounter = "messages_received_total", "WebSocket messages received from clients.";
    /// Bytes from clients.
    bytes_received: IntCounter = "received_bytes_total", "Bytes received from clients.";
    /// Bytes to clients.
    bytes_sent: IntCounter = "sent_bytes_total", "Bytes sent to clients.";
    /// Messages to clients.
    messages_sent: IntCounter = "messages_sent_total", "WebSocket messages sent to clients; one may bring several replies.";
    /// Publications of clients and API calls.
    publications: IntCounter = "publications_total", "Publications that this node took from its clients and API callers.";
    /// Pushes to clients.
    deliveries: IntCounter = "deliveries_total", "Publications, joins and leaves handed to client sockets.";
    /// Frames of clients that broke a protocol.
    protocol_violations: IntCounter = "protocol_violations_total", "Connections closed for a frame that broke RFC 6455 or a size limit.";
    /// Questions to backends.
    backend_calls: IntCounterVec = "backend_calls_total", "Questions to backends, by what became of them.", ["backend", "kind", "outcome"];
    /// Rooms whose keys are polled.
    shared_poll_rooms: IntGauge = "shared_poll_rooms", "Rooms of this node's clients whose keys are polled.";
    /// Keys that are polled.
    shared_poll_keys: IntGauge = "shared_poll_keys", "Keys that this node's clients track; one that several track counts once.";
    /// What was new about keys.
    shared_poll_updates: IntCounter = "shared_poll_updates_total", "What backends had to say of keys that was new to some of this node's clients.";
    /// Events delivered.
    webhook_events: IntCounterVec = "webhook_events_total", "Events for the application: delivered, or dropped since too many waited.", ["outcome"];
    /// Posts of events.
    webhook_posts: IntCounterVec = "webhook_posts_total", "Posts of batches of events; failed ones are made again.", ["outcome"];
    /// Events that wait.
    webhook_waiting: IntGauge = "webhook_waiting", "Events that wait to be told.";
    /// Bytes of the log.
    log_bytes: IntGauge = "log_bytes", "Bytes of the log on disk.";
    /// Files of the log.
    log_segments: IntGauge = "log_segments", "Segments of the log on disk.";
    /// Syncs of the log.
    log_syncs: IntGauge = "log_syncs", "Syncs of the log on disk since the start; one serves all writes that wait.";
    /// Writes to the log.
    log_writes: IntCounter = "log_writes_total", "Writes to the log on disk, of publications mostly.";
    /// How long they took.
    log_write_seconds: Histogram = "log_write_seconds", "How long writes to the log on disk took until they were synced, or written where they are synced at times, in seconds.";
    /// Publications that were damaged.
    log_repairs: IntCounter = "log_repairs_total", "Publications that were damaged in the log on disk, and are written again as another node has them.";
    /// Passes over the log.
    log_scrubs: IntCounter = "log_scrubs_total", "How often all of the log on disk was read in search of damage.";
    /// Reads of the log.
    log_reads: IntCounter = "log_reads_total", "Pages that were read from the log on disk.";
    /// What went wrong with the log.
    log_errors: IntCounterVec = "log_errors_total", "What went wrong with the log on disk. write: publications fail with a temporary error until it takes writes again; read: so do reads; behind: too much waited; damage: what was found to be damaged, and is not served; sync: a sync failed, or the log could not be opened again after one; lost: writes that had been acknowledged and are gone by a failed sync; retention: rooms were not trimmed, or space not given back.", ["kind"];
    /// Links up.
    mesh_links: IntGauge = "mesh_links", "Links to other nodes that are up.";
    /// Link queues.
    mesh_queue_bytes: IntGaugeVec = "mesh_queue_bytes", "Bytes that wait to be sent to a node.", ["node"];
    /// Messages between nodes.
    mesh_messages: IntCounterVec = "mesh_messages_total", "Messages between nodes, by direction.", ["direction"];
    /// Bytes between nodes.
    mesh_bytes: IntCounterVec = "mesh_bytes_total", "Bytes between nodes, by direction.", ["direction"];
    /// Links closed.
    mesh_links_closed: IntCounterVec = "mesh_links_closed_total", "Links to other nodes that closed, by reason.", ["reason"];
    /// Nodes in the gossip view.
    cluster_nodes: IntGauge = "cluster_nodes", "Live nodes that gossip knows, this one included.";
    /// Nodes in the gossip view that take rooms.
    cluster_nodes_ready: IntGauge = "cluster_nodes_ready", "Live nodes that take part: neither joining nor leaving.";
    /// Gossip datagrams dropped.
    gossip_dropped: IntCounterVec = "gossip_dropped_total", "Gossip datagrams that were dropped, by reason.", ["reason"];
}

/// Close codes that an operator sets alarms on: a series that appears with its first event shows no rise.
const WATCHED_DISCONNECTS: [&str; 6] = ["1009", "3001", "3008", "3009", "3012", "3501"];

impl Metrics {
    /// All at zero.
    ///
    /// # Errors
    /// If two metrics have one name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let metrics = Self::registered()?;
        for code in WATCHED_DISCONNECTS {
            metrics.disconnects.with_label_values(&[code]);
        }
        Ok(metrics)
    }

    /// Everything in the Prometheus text format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        // Writing to memory does not fail.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8(text).unwrap_or_default()
    }
}
