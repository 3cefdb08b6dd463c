//! The server of the mesh version before this one, built from this repository's own past.
//!
//! In: nothing. Out: the path of the binary, or why there is none: the checkout does not reach back that far.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use roomcast::cluster::mesh_version::OURS;

use crate::paths;
use crate::wait::ensure;

/// The server of the version before, built once for its commit.
pub fn server() -> Result<PathBuf, String> {
    let version = OURS.newest - 1;
    ensure(version >= OURS.oldest, || format!("mesh version {version} is not spoken any more"))?;
    let commit = commit(version)?;
    let dir = paths::target_dir().join("older");
    let server = dir.join(format!("roomcast-{commit}"));
    if !server.exists() {
        build(&commit, &dir, &server)?;
    }
    Ok(server)
}

/// That of the tag `mesh-VERSION`, or else the last one before a newer version came.
fn commit(version: u32) -> Result<String, String> {
    if let Ok(commit) = git(&["rev-parse", "--verify", "-q", &format!("mesh-{version}^{{commit}}")])
    {
        return Ok(commit);
    }
    let none = |_| format!("no tag mesh-{version}, and this checkout has no commit of it");
    let added = format!("-Snewest: {} }}", version + 1);
    let changes = git(&["log", "--format=%H", &added, "--", ":/src"])?;
    let first = changes.lines().last().unwrap_or("HEAD");
    let before = git(&["rev-parse", "--verify", "-q", &format!("{first}^")]).map_err(none)?;
    let speaks = format!("newest: {version} }}");
    git(&["grep", "-q", &speaks, &before, "--", ":/src"]).map_err(none)?;
    Ok(before)
}

fn git(words: &[&str]) -> Result<String, String> {
    let output = Command::new("git").current_dir(paths::crate_dir()).args(words).output();
    let output = output.map_err(|e| format!("git can't be started: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    ensure(output.status.success(), || format!("git {words:?}: {}", text(&output.stderr)))?;
    Ok(text(&output.stdout))
}

fn build(commit: &str, dir: &Path, server: &Path) -> Result<(), String> {
    let source = dir.join("source");
    let failed = |e: std::io::Error| format!("{}: {e}", dir.display());
    if source.exists() {
        fs::remove_dir_all(&source).map_err(failed)?;
    }
    fs::create_dir_all(&source).map_err(failed)?;
    let mut archive = Command::new("git")
        .current_dir(paths::crate_dir().join(".."))
        .args(["archive", commit])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("git can't be started: {e}"))?;
    let stdout = archive.stdout.take().ok_or("git archive has no output")?;
    let unpacked = Command::new("tar").arg("-xC").arg(&source).stdin(stdout).status();
    let unpacked = unpacked.map_err(|e| format!("tar can't be started: {e}"))?;
    let archived = archive.wait().map_err(failed)?;
    ensure(unpacked.success() && archived.success(), || format!("{commit} can't be unpacked"))?;
    let status = Command::new(env!("CARGO"))
        .current_dir(&source)
        .args(["build", "--quiet", "--locked", "-p", "roomcast", "--bin", "roomcast"])
        .env("CARGO_TARGET_DIR", dir.join("target"))
        .status()
        .map_err(|e| format!("cargo can't be started: {e}"))?;
    ensure(status.success(), || format!("the server of {commit} does not build"))?;
    fs::rename(dir.join("target/debug/roomcast"), server).map_err(failed)
}
