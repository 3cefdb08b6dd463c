//! Where things are: the server binary, the SDK drivers, scratch files.
//!
//! Everything is found from the running test binary
//! (`<target>/<profile>/deps/<test>`) and this crate's own folder, so any
//! `CARGO_TARGET_DIR` works.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// What to tell someone whose SDKs are missing.
pub const INSTALL_HINT: &str = "run cluster-tests/run once, it installs the SDKs";

/// The folder of this crate.
pub fn crate_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `<target>/<profile>`: where cargo put the running test, and puts the server.
pub fn profile_dir() -> PathBuf {
    let exe = env::current_exe().expect("a test binary knows its path");
    let deps = exe.parent().expect("a test binary is in a folder");
    deps.parent().expect("deps/ is in a folder").to_path_buf()
}

/// `<target>`: the root for scratch files, the venv and artefacts.
pub fn target_dir() -> PathBuf {
    let profile = profile_dir();
    profile.parent().expect("a profile is in target").to_path_buf()
}

/// `<target>/artefacts/NAME`: things worth looking at after a run.
pub fn artefact(name: &str) -> PathBuf {
    target_dir().join("artefacts").join(name)
}

/// A path for a scratch file, used by this process only.
pub fn scratch(suffix: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let dir = target_dir().join("cluster-tests");
    std::fs::create_dir_all(&dir).expect("target/ can be written");
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    dir.join(format!("{}-{number}{suffix}", std::process::id()))
}

/// The server under test: `ROOMCAST_BIN`, else built once by cargo, in the
/// profile of the tests.
pub fn server() -> &'static Path {
    static SERVER: OnceLock<PathBuf> = OnceLock::new();
    SERVER.get_or_init(|| match env::var_os("ROOMCAST_BIN") {
        Some(path) => PathBuf::from(path),
        None => build_server(),
    })
}

fn build_server() -> PathBuf {
    let dir = profile_dir();
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(crate_dir())
        .args(["build", "--quiet", "-p", "roomcast", "--bin", "roomcast"])
        .env("CARGO_TARGET_DIR", target_dir());
    match dir.file_name().and_then(|n| n.to_str()) {
        Some("debug") | None => {}
        Some(profile) => {
            cargo.args(["--profile", profile]);
        }
    }
    let status = cargo.status().expect("cargo can be started");
    assert!(status.success(), "the server does not build: {cargo:?}");
    dir.join("roomcast")
}

/// A script of `clients/js`, with its packages checked for.
pub fn js(script: &str) -> PathBuf {
    let dir = crate_dir().join("clients/js");
    assert!(
        dir.join("node_modules/centrifuge").is_dir(),
        "the JavaScript SDK is not installed: {INSTALL_HINT}"
    );
    dir.join(script)
}

/// What comes from PyPI: `CLUSTER_TESTS_VENV`, else `<target>/venv`.
pub fn venv() -> PathBuf {
    env::var_os("CLUSTER_TESTS_VENV").map_or_else(|| target_dir().join("venv"), PathBuf::from)
}

/// The Python of the venv that holds the Python SDK.
pub fn python() -> PathBuf {
    let python = venv().join("bin/python");
    assert!(python.exists(), "the Python SDK is not installed: {INSTALL_HINT}");
    python
}

/// The driver of the Go SDK, which the run script builds where there is a Go toolchain.
pub fn go_driver() -> PathBuf {
    target_dir().join("go-driver")
}

/// The calls of the API in Go, which the run script builds there, too.
pub fn go_api() -> PathBuf {
    target_dir().join("go-api")
}

/// What loads the PHP client of the API: `CLUSTER_TESTS_PHPCENT`, else what the run script installs where there is
/// Composer.
pub fn phpcent() -> PathBuf {
    let installed = || target_dir().join("php/vendor/autoload.php");
    env::var_os("CLUSTER_TESTS_PHPCENT").map_or_else(installed, PathBuf::from)
}

/// The calls of the API by gRPC in Go, which the run script builds there, too.
pub fn go_grpc() -> PathBuf {
    target_dir().join("go-grpc-api")
}

/// A client by gRPC in Go that only listens, which the run script builds there, too.
pub fn go_uni_grpc() -> PathBuf {
    target_dir().join("go-grpc-uni")
}

/// A backend by gRPC in Go, which the run script builds there, too.
pub fn go_grpc_backend() -> PathBuf {
    target_dir().join("go-grpc-backend")
}

/// A description of gRPC services that comes with Centrifugo's code, where there is a Go toolchain to get it.
pub fn centrifugo_proto(file: &str) -> PathBuf {
    target_dir().join("go-grpc").join(file)
}

/// The example of a consumer in Go, which the run script builds there, too.
pub fn go_example() -> PathBuf {
    target_dir().join("go-exactly-once")
}

/// A file of `examples/exactly-once`, whose packages the run script installs.
pub fn exactly_once(file: &str) -> PathBuf {
    crate_dir().join("../examples/exactly-once").join(file)
}
