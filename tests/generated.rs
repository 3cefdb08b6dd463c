//! The code of gRPC services is generated from `proto/` and kept beside the rest, so that whoever builds Roomcast needs
//! neither a compiler of `.proto` files nor the crates that stand for one. This test is that it is up to date; with
//! `ROOMCAST_WRITE_GENERATED=1` it writes the code again.

use std::{env, fs, path::Path};

/// The files in `proto/`, and where what is made of each is kept.
const FILES: [(&str, &str, &str); 2] = [
    ("api.proto", "centrifugal.centrifugo.api.rs", "src/protocol/grpc/api.rs"),
    ("proxy.proto", "centrifugal.centrifugo.proxy.rs", "src/protocol/grpc/proxy.rs"),
];

#[test]
fn the_generated_code_is_that_of_the_proto_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let proto = root.join("proto");
    for (source, made, kept) in FILES {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(source);
        fs::create_dir_all(&out).expect("a folder");
        let files = protox::compile([proto.join(source)], [&proto]).expect("a valid .proto file");
        tonic_prost_build::configure()
            .out_dir(&out)
            .bytes(".")
            .btree_map(".")
            .build_client(false)
            .build_server(source == "api.proto")
            .emit_rerun_if_changed(false)
            .compile_fds(files)
            .expect("code");
        let made = fs::read_to_string(out.join(made)).expect("the code");
        let kept = root.join(kept);
        if env::var_os("ROOMCAST_WRITE_GENERATED").is_some() {
            fs::write(&kept, &made).expect("src can be written");
        }
        let current = fs::read_to_string(&kept).unwrap_or_default();
        assert!(
            made == current,
            "{} is not what proto/{source} makes: ROOMCAST_WRITE_GENERATED=1 cargo test --test generated",
            kept.display()
        );
    }
}
