//! Says which compiler builds the program: another makes other instructions of the same code.

use std::{env, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC");
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("--version").output();
    let version = version.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned());
    let target = env::var("TARGET").unwrap_or_default();
    let profile = env::var("OPT_LEVEL").unwrap_or_default();
    println!("cargo::rustc-env=COMPILER={}, {target}", version.unwrap_or_default());
    println!("cargo::rustc-env=OPTIMIZED={profile}");
}
