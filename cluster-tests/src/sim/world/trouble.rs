//! What goes wrong, as far as [`Faults`] lets it.

use roomcast::{cluster::view::View, room::registry::In};

use super::{Happening, World, views::UNHEARD};
use crate::sim::{Faults, client::Place};

/// How long a node can stand still before its peers close their links.
const UNLINKED: u64 = 4_000;

impl World {
    pub(super) fn plan_trouble(&mut self) {
        let (opening, trouble) = (self.plan.opening, self.plan.trouble);
        match self.faults {
            Faults::Delays | Faults::Starts | Faults::ManyRooms => {}
            Faults::Drains => {
                let (at, left) = (opening + self.rng.u64(500..3_000), self.rng.u8(1..4));
                self.later(at, Happening::Drain(left));
                for _ in 0..self.rng.usize(0..5) {
                    let at = opening + self.rng.u64(700..trouble);
                    self.later(at, Happening::LoseClient);
                }
            }
            // One after the other: a room has two copies again before the next node dies.
            Faults::Deaths => {
                for at in [1_200, 12_200] {
                    let at = opening + at + self.rng.u64(0..800);
                    self.later(at, Happening::Crash);
                }
            }
            Faults::Disks => self.plan_disks(opening),
            Faults::Standstills => {
                let at = opening + self.rng.u64(1_000..2_500);
                self.later(at, Happening::Freeze);
            }
            Faults::Cuts => {
                let at = opening + self.rng.u64(1_700..4_000);
                let lasts = self.rng.u64(500..10_000);
                self.later(at, Happening::Cut(lasts));
            }
            Faults::Quorum => {
                let left = self.rng.u8(1..4);
                self.later(opening + 2_000, Happening::Episode(left));
            }
            Faults::Links | Faults::Joins | Faults::Everything => {
                for _ in 0..self.rng.usize(1..8) {
                    let at = opening + self.rng.u64(700..trouble);
                    self.later(at, Happening::Trouble);
                }
            }
        }
        // Else it is over when the last trouble is, or all rooms have moved.
        if !matches!(self.faults, Faults::Quorum | Faults::ManyRooms) {
            self.later(opening + trouble, Happening::Heal);
        }
    }

    /// One after the other, with time to recover in between: the same as for deaths, but nothing has to live. A quorum
    /// needs no time for one of them.
    fn plan_disks(&mut self, opening: u64) {
        if self.plan.long_full {
            let (node, lasts) = (self.rng.usize(..self.plan.nodes), self.rng.u64(2_000..9_000));
            self.later(opening + 800, Happening::Full(node, true));
            self.later(opening + 800 + lasts, Happening::Full(node, false));
        }
        for at in [1_200, 17_200].into_iter().skip(usize::from(self.plan.long_full)) {
            let at = opening + at + self.rng.u64(0..800);
            let trouble = match self.rng.u8(..3) {
                0 => Happening::Crash,
                _ => Happening::Blackout,
            };
            if self.plan.again && matches!(trouble, Happening::Blackout) {
                let soon = self.rng.u64(1_000..8_000);
                self.later(at + soon, Happening::Crash);
            }
            self.later(at, trouble);
        }
        if !self.plan.long_full && self.rng.u8(..3) == 0 {
            let (node, at) = (self.rng.usize(..self.plan.nodes), self.rng.u64(0..20_000));
            self.later(opening + at, Happening::Full(node, true));
            let lasts = self.rng.u64(100..1_500);
            self.later(opening + at + lasts, Happening::Full(node, false));
        }
    }

    /// All nodes crash, and each restarts when it does.
    fn black_out(&mut self) -> Result<(), String> {
        self.tell(|| "the power fails".to_owned());
        for node in 0..self.nodes.len() {
            let lost = self.nodes[node].disk.lose_power(&mut self.rng);
            if lost > 0 {
                let name = self.nodes[node].name.clone();
                self.tell(|| format!("the disk of {name} loses {lost} writes"));
            }
        }
        for node in self.alive() {
            self.take_down(node)?;
        }
        if self.plan.rots {
            self.rot();
        }
        for node in 0..self.nodes.len() {
            // Some late, but not as late as the others wait for them.
            let latest = if self.rng.u8(..3) == 0 { 8_000 } else { 3_000 };
            let delay = self.rng.u64(200..latest);
            self.later(delay, Happening::Start(node));
        }
        Ok(())
    }

    /// One node's disk can't read any more some of what others have as well.
    fn rot(&mut self) {
        let node = self.rng.usize(..self.nodes.len());
        let mut disk = std::mem::take(&mut self.nodes[node].disk);
        let others: Vec<_> = self.nodes.iter().map(|it| &it.disk).collect();
        let many = disk.rot(&others, &mut self.rng);
        self.nodes[node].disk = disk;
        let name = self.nodes[node].name.clone();
        self.tell(|| format!("the disk of {name} can't read {many} publications any more"));
    }

    pub(super) fn go_wrong(&mut self, happening: Happening) -> Result<(), String> {
        match happening {
            Happening::Trouble => self.trouble()?,
            Happening::Crash => self.crash()?,
            Happening::CrashOf(node) => self.crash_of(node)?,
            Happening::Blackout => self.black_out()?,
            Happening::Full(node, full) => {
                let name = self.nodes[node].name.clone();
                self.tell(|| format!("the disk of {name} is full: {full}"));
                self.nodes[node].disk.full = full;
            }
            Happening::Freeze => self.freeze(),
            Happening::Unheard(node, since) if self.is_frozen(node, since) => self.everyone_looks(),
            Happening::Unlinked(node, since) if self.is_frozen(node, since) => {
                self.unlinked(node)?
            }
            Happening::Thaw(node, since) if self.is_frozen(node, since) => self.thaw(node)?,
            Happening::Cut(lasts) => self.cut(lasts)?,
            Happening::Episode(left) => self.episode(left)?,
            Happening::Mend(left) => self.mended(left)?,
            Happening::Heal => {
                self.mend()?;
                self.healed = true;
                self.healed_since = Some(self.now);
            }
            _ => {}
        }
        Ok(())
    }

    fn trouble(&mut self) -> Result<(), String> {
        let everything = self.faults == Faults::Everything;
        match self.rng.u8(..12) {
            0..3 => self.lose_client(),
            3..5 if everything => self.crash(),
            5..7 if everything => self.cut_off(),
            7..9 if everything => {
                self.freeze();
                Ok(())
            }
            _ => self.break_link(),
        }
    }

    pub(super) fn lose_client(&mut self) -> Result<(), String> {
        let client = self.rng.usize(..self.clients.len());
        if self.clients[client].place != Place::Away {
            self.tell(|| format!("client {client} is cut off"));
            self.unsubscribe(client)?;
            self.send_away(client);
        }
        Ok(())
    }

    fn break_link(&mut self) -> Result<(), String> {
        let Some(node) = self.any_alive() else { return Ok(()) };
        let id = self.nodes[node].id();
        let peers = self.network.peers(id);
        if peers.is_empty() {
            return Ok(());
        }
        let peer = peers[self.rng.usize(..peers.len())];
        let (name, other) = (self.nodes[node].name.clone(), self.name_of(peer));
        self.tell(|| format!("the link of {name} and {other} breaks"));
        self.disconnect(id, peer)?;
        // Shorter than the grace that a broken link has.
        let delay = self.rng.u64(1..300);
        self.later(delay, Happening::Dial(id, peer));
        Ok(())
    }

    /// Some node crashes, unless it is the last one.
    fn crash(&mut self) -> Result<(), String> {
        match self.any_alive().filter(|_| self.alive().len() > 1) {
            Some(node) => self.crash_of(node),
            None => Ok(()),
        }
    }

    fn crash_of(&mut self, node: usize) -> Result<(), String> {
        if self.nodes[node].state.is_none() {
            return Ok(());
        }
        let name = self.nodes[node].name.clone();
        self.tell(|| format!("{name} crashes"));
        self.take_down(node)?;
        let may_lose_its_disk = self.faults == Faults::Disks && !self.plan.rots;
        if may_lose_its_disk && self.alive().len() > 1 && self.rng.u8(..3) == 0 {
            let name = self.nodes[node].name.clone();
            let disk = &mut self.nodes[node].disk;
            if self.plan.past_disks {
                disk.go_back();
                self.tell(|| format!("the disk of {name} is what it was when it started"));
            } else {
                disk.replace();
                self.tell(|| format!("the disk of {name} is lost"));
            }
        }
        let short = matches!(self.faults, Faults::Deaths | Faults::Disks);
        let longest = if short { 1_500 } else { 3_000 };
        let delay = self.rng.u64(200..longest);
        self.later(delay, Happening::Start(node));
        Ok(())
    }

    fn is_frozen(&self, node: usize, since: u64) -> bool {
        self.nodes[node].frozen.as_ref().is_some_and(|(it, _)| *it == since)
    }

    pub(super) fn freeze(&mut self) {
        let Some(node) = self.any_alive() else { return };
        if self.nodes[node].frozen.is_some() {
            return;
        }
        let since = self.now;
        self.nodes[node].frozen = Some((since, Vec::new()));
        let name = self.nodes[node].name.clone();
        self.tell(|| format!("{name} stands still"));
        self.later(UNHEARD, Happening::Unheard(node, since));
        self.later(UNLINKED, Happening::Unlinked(node, since));
        let delay = self.rng.u64(500..6_000);
        self.later(delay, Happening::Thaw(node, since));
    }

    /// The peers of a node that stands still close their links to it.
    fn unlinked(&mut self, node: usize) -> Result<(), String> {
        let id = self.nodes[node].id();
        for peer in self.network.linked_to(id) {
            self.disconnect(id, peer)?;
        }
        Ok(())
    }

    fn thaw(&mut self, node: usize) -> Result<(), String> {
        let Some((since, missed)) = self.nodes[node].frozen.take() else { return Ok(()) };
        let name = self.nodes[node].name.clone();
        self.tell(|| format!("{name} goes on"));
        if self.now - since >= UNHEARD && self.rng.bool() {
            // It has not heard of the others either.
            let alone = View::new([self.nodes[node].info()]);
            self.input(node, In::View(alone))?;
        }
        for input in missed {
            self.input(node, input)?;
        }
        self.disturbed = self.now;
        self.everyone_looks();
        Ok(())
    }

    /// Every cut heals, and every node runs again.
    pub(super) fn mend(&mut self) -> Result<(), String> {
        self.tell(|| "every cut heals".to_owned());
        self.disturbed = self.now;
        for frame in self.network.heal() {
            self.arrive(frame)?;
        }
        for node in 0..self.nodes.len() {
            self.thaw(node)?;
        }
        self.forget_dead_links();
        self.everyone_looks();
        for node in 0..self.nodes.len() {
            self.start(node);
        }
        Ok(())
    }
}
