//! `mesh`: what a delivery costs when the subscribers are spread over several nodes, beside the same on one.
//!
//! In: how many nodes and subscribers. Out: [`Mesh`], rounds that alternate between one node and the mesh,
//! the publisher being on the first node. CPU time is that of all nodes together.

use crate::cores::Apart;
use crate::limits;
use crate::publisher::Via;
use crate::rounds::{Pace, RoomLoad, Round, Served};
use crate::table::{Report, Table, count, median};
use crate::target::{Node, TargetArgs};
use anyhow::{Result, ensure};
use clap::Args;
use serde_json::json;

const ROOM: &str = "mesh";

/// The options of `mesh`.
#[derive(Args, Clone, Debug)]
pub struct MeshArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Nodes of the mesh
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=16))]
    nodes: u8,
    #[command(flatten)]
    load: RoomLoad,
    /// Publications of each round
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// Rounds; figures are the median round's
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

/// One node and a mesh, round by round.
#[derive(Clone, Debug)]
pub struct Mesh {
    args: MeshArgs,
    rounds: Vec<(Round, Round)>,
}

/// Runs the measurement.
pub fn run(args: &MeshArgs) -> Result<Mesh> {
    ensure!(!args.target.is_attached(), "one node and a mesh are compared, so both are started");
    limits::require_files(2 * args.load.subscribers)?;
    let cores = Apart::servers()?;
    // The nodes are held until the rounds are over.
    let (one, all) = (args.target.nodes(1)?, args.target.nodes(usize::from(args.nodes))?);
    let mut alone = args.served(&one)?;
    let mut mesh = args.served(&all)?;
    cores.as_ref().map(Apart::load).transpose()?;
    let pace = Pace::Rate { per_second: args.load.rate, messages: args.messages };
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        rounds.push((alone.round(pace)?, mesh.round(pace)?));
    }
    Ok(Mesh { args: args.clone(), rounds })
}

impl MeshArgs {
    /// The settings that the README's figures are from.
    pub fn of_readme(target: TargetArgs) -> Self {
        Self { target, nodes: 3, load: RoomLoad::of_readme(), messages: 40, rounds: 5 }
    }

    fn served(&self, nodes: &[Node]) -> Result<Served> {
        Served::set_up(self.load.traffic(ROOM), nodes, Via::Ws, self.target.api_key())
    }
}

impl Mesh {
    /// How many times one node's CPU time per delivery the mesh takes, in the median pair of rounds.
    pub fn ratio(&self) -> f64 {
        let ratio = |(alone, mesh): &(Round, Round)| {
            mesh.micros_per_delivery() / alone.micros_per_delivery()
        };
        median(self.rounds.iter().map(ratio))
    }

    /// Deliveries that did not come.
    pub fn lost(&self) -> u64 {
        self.rounds.iter().map(|(alone, mesh)| alone.lost() + mesh.lost()).sum()
    }

    /// Everything that can be said about it.
    pub fn report(&self) -> Report {
        let MeshArgs { nodes, load: RoomLoad { subscribers, rate, size }, .. } = self.args;
        let head = ["round", "one node µs/delivery", "mesh µs/delivery", "ratio", "lost"];
        let mut table = Table::new(head);
        for (index, (alone, mesh)) in self.rounds.iter().enumerate() {
            let (one, all) = (alone.micros_per_delivery(), mesh.micros_per_delivery());
            table.row([
                (index + 1).to_string(),
                format!("{one:.2}"),
                format!("{all:.2}"),
                format!("{:.2}", all / one),
                count(alone.lost() + mesh.lost()),
            ]);
        }
        let alone = median(self.rounds.iter().map(|(alone, _)| alone.micros_per_delivery()));
        let mesh = median(self.rounds.iter().map(|(_, mesh)| mesh.micros_per_delivery()));
        table.row([
            "median".to_owned(),
            format!("{alone:.2}"),
            format!("{mesh:.2}"),
            format!("{:.2}", self.ratio()),
            format!("{} in all", count(self.lost())),
        ]);
        let title = format!(
            "Mesh: {rate} messages/s of {size} B to {} subscribers on {nodes} nodes",
            count(subscribers)
        );
        let json = json!({
            "bench": "mesh", "nodes": nodes, "subscribers": subscribers, "rate": rate, "size": size,
            "one_node_us_per_delivery": alone, "mesh_us_per_delivery": mesh,
            "ratio": self.ratio(), "lost": self.lost(),
        });
        let note = "CPU time is that of all nodes together; the publisher is on the first of them.";
        Report { title, table, notes: vec![note.to_owned()], json }
    }
}
