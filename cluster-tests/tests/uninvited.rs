//! Whoever does not know the cluster's secret, at the doors that are for nodes:
//! the gossip port and the mesh port. Nothing that it sends may change who is
//! here, cost a link, or be noticed by a client; all of it is counted.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use bytes::BytesMut;
use chitchat::ChitchatHandle;
use cluster_tests::check::{self, messages_of};
use cluster_tests::cluster::{SECRET, sealed_config};
use cluster_tests::sdk::Format::Json;
use cluster_tests::sdk::Sdk::Js;
use cluster_tests::step::Step::*;
use cluster_tests::wait::{ensure, hold};
use cluster_tests::world::World;
use roomcast::cluster::gossip::Gossip;
use roomcast::cluster::membership;
use roomcast::cluster::mesh_version::{OURS, Versions};
use roomcast::cluster::node::{NodeInfo, Phase};
use roomcast::cluster::secret::Secrets;
use roomcast::mesh::noise::Handshake;
use roomcast::mesh::wire::{self, Frame, Hello};
use roomcast::metrics::Metrics;
use serde_json::json;
use tokio::runtime::Runtime;

const GOSSIP_DROPPED: &str = "roomcast_gossip_dropped_total";
const NOT_INTRODUCED: &str = "roomcast_mesh_links_closed_total{reason=\"not_introduced\"}";
const HEALTHY: [&str; 2] = ["ann", "bob"];
/// Longer than the doors leave someone standing in them.
const SOON: Duration = Duration::from_secs(10);

/// Two nodes with a secret, a client on each, talking until [`end`].
struct Besieged {
    world: World,
    talk: Vec<(&'static str, cluster_tests::driver::Pending)>,
    links_closed: f64,
}

fn begin() -> Besieged {
    let mut world = World::with(2, &sealed_config());
    for (node, client) in HEALTHY.into_iter().enumerate() {
        world.play([Connect { client, sdk: Js, format: Json, node }]);
        world.play([Subscribe { client, room: "lobby" }]);
    }
    let talk = HEALTHY.map(|it| (it, world.clients.start_talking(it, "lobby", it)));
    let links_closed = links_closed(&world);
    Besieged { world, talk: talk.into(), links_closed }
}

impl Besieged {
    /// Nobody has noticed: same view, same links, every message in its place.
    fn end(mut self) {
        let world = &mut self.world;
        world.play([Converge]);
        let before = self.links_closed;
        world.check("no link between nodes was lost", |world| {
            let now = links_closed(world);
            ensure(now == before, || format!("{before} were closed before, now {now}"))
        });
        let talk = self.talk;
        let mut said = Vec::new();
        world.check("everyone could talk all the time", |world| {
            for (client, pending) in talk {
                world.clients.hush(client).map_err(|e| e.to_string())?;
                let outcome = world.clients.finish_publishing(client, pending);
                let outcome = outcome.map_err(|e| e.to_string())?;
                ensure(outcome.refused.is_empty(), || format!("{client}: {outcome:?}"))?;
                said.extend(messages_of(client, outcome.sent));
            }
            Ok(())
        });
        world.eventually("and was heard", SOON, |world| {
            check::complete(&world.logs(&HEALTHY, "lobby"), &said)
        });
    }

    /// Waits until a node has counted so many more than `before`.
    fn counted(&mut self, node: usize, metric: &str, before: f64, more: usize) {
        let what = format!("node {node} has counted {more} more of {metric}");
        self.world.eventually(&what, SOON, |world| {
            let now = count(world, node, metric);
            ensure(now >= before + more as f64, || format!("{before} before, now {now}"))
        });
    }
}

/// A metric that begins with its first event.
fn count(world: &World, node: usize, metric: &str) -> f64 {
    world.cluster.metric(node, metric).unwrap_or(0.0)
}

/// Links that were links: those of strangers are not counted here.
fn links_closed(world: &World) -> f64 {
    let on = |node| {
        let all = count(world, node, "roomcast_mesh_links_closed_total");
        all - count(world, node, NOT_INTRODUCED)
    };
    on(0) + on(1)
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("a node says an address")
}

/// What nodes really send: a node that is asked to join the returned socket too
/// sends sealed datagrams there until it has heard from it.
fn capture(world: &mut World) -> (UdpSocket, Vec<Vec<u8>>) {
    let ear = UdpSocket::bind("127.0.0.1:0").expect("a port");
    ear.set_read_timeout(Some(SOON)).expect("a timeout");
    let seed = ear.local_addr().expect("an address").to_string();
    let mut datagrams = Vec::new();
    world.check("a third node joins, and gossips to a stranger as well", |world| {
        world.cluster.add_with_seed(&seed)?;
        let mut buffer = [0; 65_536];
        while datagrams.len() < 5 {
            let length = ear.recv(&mut buffer).map_err(|e| format!("no datagram: {e}"))?;
            datagrams.push(buffer[..length].to_vec());
        }
        Ok(())
    });
    (ear, datagrams)
}

/// Junk of one length, never twice the same.
fn junk(length: usize, random: &mut fastrand::Rng) -> Vec<u8> {
    (0..length).map(|_| random.u8(..)).collect()
}

#[test]
fn datagrams_of_strangers_change_nothing() {
    let mut it = begin();
    let gossip = address(&it.world.cluster.node(0).gossip);
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let mut random = fastrand::Rng::with_seed(1);
    // 65,507 bytes are the most that a datagram holds.
    let lengths = [0, 1, 23, 24, 25, 39, 40, 41, 64, 500, 1472, 9000, 65_507];
    for _ in 0..20 {
        let before = count(&it.world, 0, GOSSIP_DROPPED);
        for length in lengths {
            stranger.send_to(&junk(length, &mut random), gossip).expect("sent");
        }
        // Before there are more, or the kernel drops them.
        it.counted(0, GOSSIP_DROPPED, before, lengths.len());
    }
    it.end();
}

#[test]
fn datagrams_sent_again_or_spoilt_change_nothing() {
    let mut it = begin();
    let (ear, captured) = capture(&mut it.world);
    it.world.play([Converge]);
    for node in 0..2 {
        let gossip = address(&it.world.cluster.node(node).gossip);
        let before = count(&it.world, node, GOSSIP_DROPPED);
        for datagram in &captured {
            // The first of each is news to this node, and is taken; all others are not.
            for _ in 0..10 {
                ear.send_to(datagram, gossip).expect("sent");
            }
            ear.send_to(&datagram[..datagram.len() - 1], gossip).expect("sent");
            for byte in [0, 24, datagram.len() / 2, datagram.len() - 1] {
                let mut spoilt = datagram.clone();
                spoilt[byte] ^= 1;
                ear.send_to(&spoilt, gossip).expect("sent");
            }
            ear.send_to(&[&datagram[..], &[0]].concat(), gossip).expect("sent");
        }
        it.counted(node, GOSSIP_DROPPED, before, captured.len() * 15);
    }
    it.end();
}

#[test]
fn datagrams_of_a_node_that_is_dead_do_not_bring_it_back() {
    let mut it = begin();
    let (ear, captured) = capture(&mut it.world);
    it.world.play([Converge, Kill { node: 2 }]);
    it.world.eventually("the others have noticed", Duration::from_secs(30), |world| {
        world.cluster.converged_now()
    });
    let gossip = address(&it.world.cluster.node(0).gossip);
    for datagram in &captured {
        ear.send_to(datagram, gossip).expect("sent");
    }
    // As long as gossip would take to pass it on.
    hold(Duration::from_secs(2));
    it.world.check("it is not listed again", |world| world.cluster.converged_now());
    // The dead node's links are closed, and no others.
    it.links_closed = links_closed(&it.world);
    it.end();
}

/// Connects to a node's mesh port and says `words`, then nothing more.
fn knock(mesh: SocketAddr, words: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect_timeout(&mesh, SOON).expect("a connection");
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    // A door that was shut meanwhile is what is hoped for.
    let _ = stream.write_all(words);
    stream
}

/// Reads until the node has closed the connection: how much it had to say.
fn until_closed(mut stream: TcpStream) -> Result<usize, String> {
    let mut said = 0;
    let mut buffer = [0; 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(said),
            Ok(count) => said += count,
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return Ok(said),
            Err(e) => return Err(format!("still open: {e}")),
        }
    }
}

/// The first message of a handshake, as one who knows `secret` would send it.
fn first_message(secret: &str) -> Vec<u8> {
    let mut secrets = Secrets::default();
    secrets.add(secret).expect("long enough");
    let key = secrets.keys("mesh")[0];
    let message = Handshake::new(&key, true).and_then(|mut it| it.write()).expect("a message");
    [&(message.len() as u16).to_be_bytes()[..], &message].concat()
}

#[test]
fn strangers_at_the_mesh_port_get_no_link() {
    let mut it = begin();
    let mesh = address(&it.world.cluster.node(0).mesh);
    let mut random = fastrand::Rng::with_seed(2);
    let right = first_message(SECRET);
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("silence", Vec::new()),
        ("junk", junk(500, &mut random)),
        ("much junk", junk(1 << 20, &mut random)),
        ("a handshake said to be of 65,535 bytes", vec![0xff; 70_000]),
        ("a frame said to be of 4 GB", vec![0xff, 0xff, 0xff, 0xff, 0, 0]),
        ("a handshake of no bytes", vec![0, 0]),
        ("a handshake of 48 random bytes", [&[0, 48][..], &junk(48, &mut random)].concat()),
        ("half a handshake", right[..20].to_vec()),
        ("a handshake with another secret", first_message("some other secret of the same kind")),
        ("a web browser", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("a handshake heard elsewhere, and silence", right.clone()),
        ("the same handshake again, and junk", [&right[..], &junk(500, &mut random)].concat()),
    ];
    let before = count(&it.world, 0, NOT_INTRODUCED);
    let streams: Vec<_> = rows.iter().map(|(name, words)| (name, knock(mesh, words))).collect();
    for (name, stream) in streams {
        it.world.check(&format!("the door is shut on {name}"), |_| {
            // The answer to a handshake is the most that anyone gets, with the sealed hello.
            let said = until_closed(stream)?;
            ensure(said < 300, || format!("it got {said} bytes"))
        });
    }
    it.counted(0, NOT_INTRODUCED, before, rows.len());
    it.end();
}

#[test]
fn a_crowd_that_says_nothing_at_the_mesh_port_costs_no_link() {
    let mut it = begin();
    let mesh = address(&it.world.cluster.node(0).mesh);
    let before = count(&it.world, 0, NOT_INTRODUCED);
    let crowd: Vec<_> = (0..300).map(|_| knock(mesh, &[0])).collect();
    it.world.play([Add, Converge]);
    it.counted(0, NOT_INTRODUCED, before, crowd.len());
    it.end();
}

/// What a node speaks that is more than one mesh version ahead.
const NEWER: Versions = Versions { oldest: OURS.newest + 1, newest: OURS.newest + 2 };

/// Says hello at a node's mesh port as a node of another mesh version, with the right secret.
fn hello_of(theirs: Versions, mesh: SocketAddr) -> Result<usize, String> {
    let mut secrets = Secrets::default();
    secrets.add(SECRET).ok_or("long enough")?;
    let noise = |e| format!("{e:?}");
    let mut handshake = Handshake::new(&secrets.keys("mesh")[0], true).map_err(noise)?;
    let first = handshake.write().map_err(noise)?;
    let mut stream = knock(mesh, &[&(first.len() as u16).to_be_bytes()[..], &first].concat());
    let mut length = [0; 2];
    stream.read_exact(&mut length).map_err(|e| e.to_string())?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).map_err(|e| e.to_string())?;
    handshake.read(&answer).map_err(noise)?;
    let (mut sealer, _) = handshake.finish().map_err(noise)?;
    let Versions { oldest, newest } = theirs;
    let (cluster, node) = ("roomcast".into(), other_node(mesh));
    let hello = Hello { newest, cluster, node, to: None, oldest };
    let frame = wire::encode(&Frame::Hello(hello)).map_err(|code| format!("{code:?}"))?;
    let mut sealed = BytesMut::new();
    sealer.seal(&frame, &mut sealed).map_err(noise)?;
    stream.write_all(&sealed).map_err(|e| e.to_string())?;
    until_closed(stream)
}

fn other_node(mesh: SocketAddr) -> NodeInfo {
    let http = ([127, 0, 0, 1], 1).into();
    NodeInfo { name: "newer".into(), generation: 1, mesh, http, phase: Phase::Ready }
}

#[test]
fn a_node_of_another_mesh_version_gets_no_link() {
    let mut it = begin();
    let mesh = address(&it.world.cluster.node(0).mesh);
    let before = count(&it.world, 0, NOT_INTRODUCED);
    it.world.check("the door is shut on a newer one", |_| hello_of(NEWER, mesh).map(drop));
    it.counted(0, NOT_INTRODUCED, before, 1);
    it.world.eventually("and the log names both versions", SOON, |world| {
        let log = world.cluster.node(0).log();
        let told = format!("it speaks mesh version {NEWER}, this node {OURS}");
        ensure(log.contains(&told), || log)
    });
    it.end();
}

/// Gossips as a ready node of another mesh version, until what is returned is dropped.
fn gossip_as_another_version(world: &World) -> (Runtime, ChitchatHandle) {
    let runtime = Runtime::new().expect("a runtime");
    let (a, b) = (&world.cluster.node(0).gossip, &world.cluster.node(1).gossip);
    let join = vec![a.clone(), b.clone()];
    let handle = runtime.block_on(async {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let gossip = socket.local_addr().expect("an address");
        // No one listens there: whoever placed a room on it would wait for ever.
        let me = other_node(([127, 0, 0, 1], 1).into());
        let settings =
            membership::MembershipSettings { me, gossip, join, cluster: "roomcast".into() };
        let mut secrets = Secrets::default();
        secrets.add(SECRET).expect("long enough");
        let metrics = Metrics::new().expect("metrics");
        let transport = Gossip::new(socket, &secrets.keys("gossip"), metrics);
        let handle = membership::start(&settings, &transport).await.expect("it gossips");
        let Versions { oldest, newest } = NEWER;
        handle
            .with_chitchat(|it| {
                it.self_node_state().set(membership::OLDEST, oldest.to_string());
                it.self_node_state().set(membership::NEWEST, newest.to_string());
            })
            .await;
        handle
    });
    (runtime, handle)
}

#[test]
fn a_node_that_gossips_another_mesh_version_is_left_out_and_named() {
    let mut it = begin();
    let newer = gossip_as_another_version(&it.world);
    for node in [0, 1] {
        it.world.eventually("the log names both versions", SOON, |world| {
            let log = world.cluster.node(node).log();
            let theirs = format!("\"theirs\":\"{NEWER}\"");
            ensure(log.contains(&theirs) && log.contains("is left out"), || log)
        });
    }
    for number in 0..30 {
        let room = format!("room-{number}");
        it.world.api(0, "publish", json!({"channel": room, "data": 1}));
    }
    it.world.check("no one has counted it in", |world| world.cluster.converged_now());
    drop(newer);
    it.end();
}
