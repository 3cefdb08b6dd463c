//! How nodes begin and end: before they serve, all at once, and where the names of the others are known late.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cluster_tests::cluster::CONFIG;
use cluster_tests::paths;
use cluster_tests::step::Step::*;
use cluster_tests::wait::{ensure, until};
use cluster_tests::world::World;
use serde_json::json;

/// How long it takes to leave, on a machine that has other things to do.
const SECONDS: Duration = Duration::from_secs(10);

#[test]
fn nodes_that_are_all_told_to_leave_at_once_do_so_within_seconds() {
    let mut world = World::new(3);
    world.check("a message into many rooms", |world| {
        (0..100).try_for_each(|number| {
            let body = json!({"channel": format!("room-{number}"), "data": number});
            world.cluster.api(number % 3, "publish", &body).map(drop)
        })
    });
    let addresses: Vec<[String; 3]> = (0..3)
        .map(|node| world.cluster.node(node))
        .map(|node| [node.http.to_string(), node.mesh.clone(), node.gossip.clone()])
        .collect();
    // Their ends would hold the ports, if the nodes did not see to it.
    let clients: Vec<_> =
        addresses.iter().map(|[http, ..]| TcpStream::connect(http).expect("it serves")).collect();
    let began = Instant::now();
    world.check("all are told to leave, and leave well", |world| {
        (0..3).for_each(|node| world.cluster.node(node).terminate());
        for node in 0..3 {
            let left = SECONDS.saturating_sub(began.elapsed());
            let status = world.cluster.node_mut(node).exit_status(left)?;
            ensure(status.success(), || format!("it ended with {status}"))?;
        }
        Ok(())
    });
    world.check("their ports are free at once", |_| {
        for [http, mesh, gossip] in &addresses {
            for address in [http, mesh] {
                TcpListener::bind(address).map_err(|error| format!("{address}: {error}"))?;
            }
            UdpSocket::bind(gossip).map_err(|error| format!("{gossip}: {error}"))?;
        }
        Ok(())
    });
    drop(clients);
}

#[test]
fn a_node_that_does_not_serve_yet_refuses_clients() {
    let mut world = World::with(1, CONFIG);
    // Nobody is there, so it looks for a while before it serves.
    let nobody = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let nobody = nobody.local_addr().expect("bound").to_string();
    let mut new = 0;
    world.check("a node starts, and looks for others", |world| {
        new = world.cluster.launch_joining(&[&nobody])?;
        world.cluster.node_mut(new).await_bound()
    });
    world.check("until it serves, whoever connects is refused", |world| {
        let http = world.cluster.node(new).http;
        let mut refused = 0;
        until(SECONDS, || match TcpStream::connect(http) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                refused += 1;
                Err(error.to_string())
            }
            Err(error) => Err(format!("not refused: {error}")),
        })?;
        ensure(refused > 10, || format!("only {refused} were refused"))?;
        world.cluster.node_mut(new).await_ready()
    });
}

/// Files for the resolver of one node, which knows what is in `hosts` and asks nobody else; or why there can be
/// none here.
fn own_resolver(hosts: &Path) -> Result<Vec<String>, String> {
    let probe = Command::new("unshare").args(["--mount", "true"]).output();
    let probe = probe.map_err(|error| format!("unshare: {error}"))?;
    ensure(probe.status.success(), || String::from_utf8_lossy(&probe.stderr).into_owned())?;
    let order = paths::scratch(".nsswitch");
    let write = |file: &Path, text| fs::write(file, text).map_err(|e| e.to_string());
    write(&order, "hosts: files\n")?;
    write(hosts, "127.0.0.1 localhost\n")?;
    let (hosts, order) = (hosts.display(), order.display());
    let script = format!(
        "mount --bind {hosts} /etc/hosts && mount --bind {order} /etc/nsswitch.conf && exec \"$@\""
    );
    Ok(["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec())
}

/// A cluster whose next nodes have a resolver of their own, and its file of hosts; none where that can't be done,
/// which is then said.
fn with_own_resolver(nodes: usize) -> Option<(World, PathBuf)> {
    let hosts = paths::scratch(".hosts");
    let under = match own_resolver(&hosts) {
        Ok(under) => under,
        Err(why) => {
            let _ =
                writeln!(std::io::stderr(), "SKIPPED, no own /etc/hosts can be made here: {why}");
            return None;
        }
    };
    let mut world = World::new(nodes);
    let words: Vec<&str> = under.iter().map(String::as_str).collect();
    world.cluster.start_under(&words);
    Some((world, hosts))
}

/// The gossip address of the first node, by a name that nobody knows yet.
fn late_name(world: &World) -> String {
    let port = world.cluster.node(0).gossip.rsplit(':').next().map(str::to_owned);
    format!("node-a.roomcast.test:{}", port.expect("an address has a port"))
}

fn name_becomes_known(world: &mut World, hosts: &Path) {
    world.check("the name gets its address", |_| {
        let file = fs::OpenOptions::new().append(true).open(hosts);
        let mut file = file.map_err(|error| error.to_string())?;
        writeln!(file, "127.0.0.1 node-a.roomcast.test").map_err(|error| error.to_string())
    });
}

#[test]
fn nodes_whose_names_are_known_late_meet_within_seconds() {
    let Some((mut world, hosts)) = with_own_resolver(1) else { return };
    let name = late_name(&world);
    world.check("a node starts that joins a name that nobody knows yet", |world| {
        world.cluster.add_joining(&[&name])?;
        let alone = world.cluster.metric(1, "roomcast_cluster_nodes")?;
        ensure(alone == 1.0, || format!("it sees {alone} nodes"))
    });
    name_becomes_known(&mut world, &hosts);
    world.eventually("both are one cluster", Duration::from_secs(8), |world| {
        world.cluster.converged_now()
    });
}

#[test]
fn a_node_that_began_alone_yields_its_name_to_the_one_that_bears_it() {
    let Some((mut world, hosts)) = with_own_resolver(2) else { return };
    let (name, mut new) = (late_name(&world), 0);
    world.check("a node serves alone, under a name that is taken", |world| {
        new = world.cluster.add_namesake_joining(0, &[&name])?;
        world.cluster.node_mut(new).await_ready()
    });
    name_becomes_known(&mut world, &hosts);
    world.check("it ends, with an error", |world| {
        let status = world.cluster.node_mut(new).exit_status(2 * SECONDS)?;
        ensure(status.code() == Some(1), || format!("it ended with {status}"))
    });
    world.play([Hold(SECONDS / 2), Converge]);
}
