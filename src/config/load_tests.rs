//! SHELL. Tests that read files.

use std::io::Write as _;

use super::*;

fn load_text(extension: &str, text: &str) -> Result<Config, Problems> {
    let directory = std::env::temp_dir();
    let unique = format!("roomcast-{}-{:p}.{extension}", std::process::id(), text.as_ptr());
    let path = directory.join(unique);
    std::fs::File::create(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .expect("a file in the temporary directory");
    let config = load(Some(&path), [], Vec::new());
    std::fs::remove_file(path).expect("it was just written");
    config
}

fn variables(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    variables.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn with_variables(env: &[(&str, &str)]) -> Result<Config, Problems> {
    load(None, variables(env), Vec::new())
}

fn problem(text: &str) -> String {
    load_text("toml", text).expect_err("invalid").to_string()
}

#[test]
fn the_defaults_are_valid() {
    let config = load(None, [], Vec::new()).expect("valid");
    assert_eq!(config.listen.port(), 8000);
    assert!(config.cluster.is_none());
}

#[test]
fn a_node_without_a_name_is_called_after_what_only_its_machine_has() {
    let name = |names: [&str; 2], gossip: &str, advertise: &str, machine: &str| {
        let cluster = raw::Cluster {
            gossip: gossip.into(),
            advertise: advertise.into(),
            ..Default::default()
        };
        host(&names.map(str::to_owned), &cluster, machine)
    };
    assert_eq!(name(["web-1\n", "other"], "10.0.0.1:1", "", ""), "web-1");
    for nobodys in ["localhost\n", "localhost.localdomain", "(none)", ""] {
        assert_eq!(name([nobodys, "web-1\n"], "10.0.0.1:1", "", ""), "web-1");
        assert_eq!(name([nobodys, nobodys], "10.0.0.1:1", "", "x"), "10.0.0.1");
        assert_eq!(name([nobodys, nobodys], "0.0.0.0:1", "10.0.0.2", "x"), "10.0.0.2");
        let (one, other) = (
            name([nobodys, nobodys], "127.0.0.1:1", "", "6f9e\n"),
            name([nobodys, nobodys], "", "", "6f9f\n"),
        );
        assert!(one != other && !one.contains("6f9e"), "{one} {other}");
        assert_eq!(name([nobodys, nobodys], "", "", ""), "roomcast");
    }
}

#[test]
fn one_meaning_in_three_formats() {
    let toml = "[[channel.namespaces]]\nname = \"chat\"\nhistory_size = 5\nhistory_ttl = \"1m30s\"";
    let json =
        r#"{"channel":{"namespaces":[{"name":"chat","history_size":5,"history_ttl":"1m30s"}]}}"#;
    let yaml = "channel:\n  namespaces:\n    - name: chat\n      history_size: 5\n      history_ttl: 1m30s";
    for (extension, text) in [("toml", toml), ("json", json), ("yaml", yaml)] {
        let config = load_text(extension, text).expect(extension);
        let options = config.namespaces.options("chat:x").expect("configured").clone();
        assert_eq!((options.history_size, options.history_ttl.as_secs()), (5, 90));
    }
}

#[test]
fn the_sample_files_are_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let files = std::fs::read_dir(folder).expect("the samples are there");
    let mut checked = 0;
    for file in files {
        let path = file.expect("readable").path();
        // Those of proxies.
        if path.is_dir() {
            continue;
        }
        load(Some(&path), [], Vec::new()).unwrap_or_else(|it| panic!("{}: {it}", path.display()));
        checked += 1;
    }
    assert_eq!(checked, 6);
}

#[test]
fn unknown_keys_name_the_nearest() {
    assert_eq!(
        problem("[client]\nallowed_origin = []"),
        "client.allowed_origin: there is no such key; did you mean allowed_origins?"
    );
    assert_eq!(
        problem("[[channel.namespaces]]\nname = \"ab\"\nhistory_sise = 5"),
        "channel.namespaces[0].history_sise: there is no such key; did you mean history_size?"
    );
    let error = with_variables(&[("ROOMCAST_CLIENT_INSECUR", "true")]);
    let error = error.expect_err("unknown").to_string();
    assert_eq!(
        error,
        "ROOMCAST_CLIENT_INSECUR: there is no such variable; did you mean ROOMCAST_CLIENT_INSECURE?"
    );
}

#[test]
fn variables_of_kubernetes_are_ignored_and_told() {
    let names = [
        ("ROOMCAST_SERVICE_HOST", "10.0.0.1"),
        ("ROOMCAST_SERVICE_PORT", "8000"),
        ("ROOMCAST_SERVICE_PORT_HTTP", "8000"),
        ("ROOMCAST_PORT", "tcp://10.0.0.1:8000"),
        ("ROOMCAST_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("ROOMCAST_PORT_8000_TCP_PROTO", "tcp"),
        ("ROOMCAST_MESH_SERVICE_HOST", "10.0.0.1"),
        ("ROOMCAST_MESH_PORT", "tcp://10.0.0.1:7947"),
    ];
    let config = with_variables(&names).expect("valid");
    assert_eq!(config.notes.len(), names.len());
    for (note, (name, _)) in config.notes.iter().zip(names) {
        assert!(note.starts_with(&format!("the variable {name} is taken for one of")), "{note}");
    }
}

#[test]
fn keys_and_values_in_a_variable_are_checked() {
    let problem = |value: &str| {
        let config = with_variables(&[("ROOMCAST_CHANNEL_NAMESPACES", value)]);
        config.expect_err("invalid").to_string()
    };
    assert_eq!(
        problem(r#"[{"name": "ab", "history_sise": 5}]"#),
        "ROOMCAST_CHANNEL_NAMESPACES[0].history_sise: there is no such key; did you mean history_size?"
    );
    assert!(
        problem(r#"[{"name": "ab", "history_size": "x"}]"#)
            .starts_with("ROOMCAST_CHANNEL_NAMESPACES[0].history_size: invalid type")
    );
}

#[test]
fn values_out_of_range_name_the_key_and_what_fits() {
    let cases = [
        ("[client]\nconcurrency = 0", "client.concurrency: 1 to 65535"),
        ("[client]\nconcurrency = 65536", "client.concurrency: 1 to 65535"),
        ("[websocket]\nmessage_size_limit = 0", "websocket.message_size_limit: at least 1"),
        ("[log]\nlevel = \"inof\"", "log.level: \"inof\" is no level; did you mean info?"),
        (
            "[log]\nlevel = \"info,roomcast::mesh=debgu\"",
            "log.level: \"debgu\" is no level; did you mean debug?",
        ),
        ("[log]\nformat = \"jsn\"", "log.format: \"jsn\" is no format; did you mean json?"),
    ];
    for (text, expected) in cases {
        assert_eq!(problem(text), expected);
    }
    let cluster = |join: &str| {
        format!("[cluster]\ngossip = \"127.0.0.1:1\"\nmesh = \"127.0.0.1:2\"\njoin = [\"{join}\"]")
    };
    for bad in ["a", "a:", ":1", "a:b", "a:70000", "http://a:1", "a:0"] {
        assert!(problem(&cluster(bad)).starts_with("cluster.join: "), "{bad}");
    }
    for good in ["a:1", "10.0.0.1:7946", "[::1]:7946", "node-1.example:7946"] {
        load_text("toml", &cluster(good)).expect(good);
    }
    let cluster = |lines: &str| {
        let cluster = "[cluster]\ngossip = \"127.0.0.1:1\"\nmesh = \"127.0.0.1:2\"\n";
        format!("{cluster}{lines}")
    };
    assert_eq!(
        problem(&cluster("queue_max_size = 2097151")),
        "cluster.queue_max_size: at least 2097152: 1 MiB and twice the largest publication that is allowed, which has 524288 bytes (client.queue_max_size / 2, websocket.message_size_limit, emulation.max_request_body_size)"
    );
    load_text("toml", &cluster("queue_max_size = 2097152")).expect("just enough");
    let small = "queue_max_size = 1200000\n[client]\nqueue_max_size = 131072";
    load_text("toml", &cluster(small)).expect("publications are smaller, too");
    load_text("toml", "[log]\nlevel = \"WARN,roomcast::mesh=trace,off\"").expect("valid");
}

#[test]
fn wrong_values_name_the_key() {
    assert!(problem("[client]\nping_interval = \"soon\"").starts_with("client.ping_interval: "));
    assert!(problem("[http_server]\nport = 70000").starts_with("http_server.port: "));
    assert!(
        problem("[[channel.namespaces]]\nname = \"ab\"\n[[channel.namespaces]]\nname = \"cd\"\nhistory_ttl = 5")
            .starts_with("channel.namespaces[1].history_ttl: ")
    );
    assert!(
        problem("[channel.without_namespace]\nforce_recovery = true")
            .starts_with("channel.without_namespace.force_recovery: needs history_size")
    );
    for (option, why) in [
        ("auto_cache_recover = true", "auto_cache_recover: needs force_recovery"),
        ("allowed_delta_types = [\"xdelta\"]", "allowed_delta_types: \"xdelta\" is no delta"),
        (
            "publication_data_format = \"jsn\"",
            "publication_data_format: \"jsn\" is no format; did you mean json?",
        ),
    ] {
        let problem = problem(&format!("[channel.without_namespace]\n{option}"));
        let expected = format!("channel.without_namespace.{why}");
        assert!(problem.starts_with(&expected), "{problem}");
    }
    assert!(
        problem("[cluster]\ngossip = \"10.0.0.1:1\"\nmesh = \"10.0.0.1:2\"")
            .starts_with("cluster.secret: needed")
    );
    assert!(problem("not toml at all").contains(".toml: "));
}

#[test]
fn variables_go_over_the_file_and_flags_over_both() {
    let env = variables(&[
        ("ROOMCAST_HTTP_SERVER_PORT", "1"),
        ("ROOMCAST_NODE_NAME", "5"),
        ("ROOMCAST_CLIENT_ALLOWED_ORIGINS", "http://a, http://b"),
        ("PATH", "x"),
    ]);
    let config = load(None, env, vec![("http_server.port", 2.into())]).expect("valid");
    assert_eq!((config.listen.port(), config.name.as_str()), (2, "5"));
    assert_eq!(config.client.allowed_origins, ["http://a", "http://b"]);
}

fn keys(config: Result<Config, Problems>) -> Vec<String> {
    let problems = config.expect_err("invalid");
    problems.list().iter().map(|it| it.key.clone()).collect()
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let text = "
        nonsense = 1
        [http_server]
        port = \"many\"
        workers = 100
        [client]
        alowed_origins = []
        ping_interval = \"soon\"
        [engine]
        type = \"redis\"
        [[channel.namespaces]]
        name = \"a\"
        history_size = 5
        [[channel.namespaces]]
        name = \"news\"
        history_size = 5
        history_tll = \"1h\"
        [[channel.namespaces]]
        name = \"chat\"
        publish_proxy_enabled = true
        force_recovery = true
        allow_positioning = true
    ";
    let expected = [
        "nonsense",
        "client.alowed_origins",
        "engine",
        "channel.namespaces[1].history_tll",
        "http_server.port",
        "client.ping_interval",
        "channel.namespaces[0].name",
        "channel.namespaces[0].history_size",
        "channel.namespaces[2].force_recovery",
        "channel.namespaces[2].allow_positioning",
        "channel.proxy.publish.endpoint",
    ];
    let (mut found, mut expected) = (keys(load_text("toml", text)), expected.map(str::to_owned));
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn what_centrifugo_generates_is_valid() {
    let text = r#"{
        "client": {"token": {"hmac_secret_key": "x"}, "allowed_origins": []},
        "admin": {"enabled": false, "password": "p", "secret": "s"},
        "http_api": {"key": "k"}
    }"#;
    let config = load_text("json", text).expect("valid");
    assert_eq!((config.api_key.as_deref(), config.notes.len()), (Some("k"), 0));
}

#[test]
fn keys_of_centrifugo_do_no_harm_where_they_ask_for_nothing() {
    let text = "
        pid_file = \"\"
        [engine]
        type = \"memory\"
        [health]
        enabled = true
        [swagger]
        enabled = false
        [usage_stats]
        disabled = true
        [log]
        level = \"none\"
        file = \"\"
        [http_server]
        port = \"8001\"
        internal_port = \"\"
        [http_api]
        error_mode = \"\"
        [websocket]
        compression = false
        read_buffer_size = 512
        [channel]
        history_meta_ttl = \"10m\"
        [[channel.namespaces]]
        name = \"chat\"
        [[channel.namespaces]]
        name = \"news\"
        history_meta_ttl = \"20m\"
        subscription_type = \"stream\"
    ";
    let config = load_text("toml", text).expect("valid");
    assert_eq!((config.log.level.as_str(), config.listen.port()), ("off", 8001));
    assert_eq!(config.notes.len(), 1, "{:?}", config.notes);
    assert!(config.notes[0].starts_with("websocket.read_buffer_size: it has no effect"));
    for (room, minutes) in [("chat:a", 10), ("news:a", 20), ("a", 10)] {
        let options = config.namespaces.options(room).expect("configured");
        assert_eq!(options.history_meta_ttl.as_secs(), 60 * minutes, "{room}");
    }
}

#[test]
fn keys_of_centrifugo_that_ask_for_something_say_what_to_do() {
    for (text, said) in [
        ("[prometheus]\nhandler_prefix = \"/m\"", "prometheus.handler_prefix: take it out: "),
        ("[broker]\nenabled = true\ntype = \"nats\"", "broker: take it out: there is nothing"),
        ("[admin]\nenabled = true", "admin: take it out, or say enabled = false"),
        ("[[consumers]]\nenabled = true\nname = \"a\"", "consumers: take it out: "),
        ("token_hmac_secret_key = \"x\"", "token_hmac_secret_key: is client.token.hmac_secret_key"),
        ("sse = true", "sse: is sse.enabled since Centrifugo v6; `roomcast migrate FILE`"),
        ("sse = \"x\"", "sse: "),
    ] {
        let problem = problem(text);
        assert!(problem.starts_with(said) && !problem.contains("did you mean"), "{problem}");
    }
}

#[test]
fn variables_are_taken_as_centrifugo_takes_them() {
    let config = with_variables(&[
        ("ROOMCAST_HTTP_SERVER_PORT", "8001"),
        ("ROOMCAST_CLIENT_INSECURE", "T"),
        ("ROOMCAST_DEMO_ENABLED", "0"),
        ("ROOMCAST_CLIENT_ALLOWED_ORIGINS", "https://a https://b"),
        ("ROOMCAST_CLIENT_CHANNEL_LIMIT", ""),
        ("ROOMCAST_CHANNEL_NAMESPACES_CHAT_ROOM_HISTORY_SIZE", "7"),
        ("ROOMCAST_CHANNEL_NAMESPACES", r#"[{"name": "chat-room", "history_ttl": "1h"}]"#),
        ("ROOMCAST_CHANNEL_PROXY_PUBLISH_HTTP_STATIC_HEADERS", r#"{"X-A": "b"}"#),
    ]);
    let config = config.expect("valid");
    assert!(config.client.insecure && !config.demo && config.client.channel_limit == 128);
    assert_eq!(config.client.allowed_origins, ["https://a", "https://b"]);
    let options = config.namespaces.options("chat-room:a").expect("configured");
    assert_eq!((options.history_size, options.history_ttl.as_secs()), (7, 3600));
    let wrong = with_variables(&[("ROOMCAST_HTTP_SERVER_PORT", "x"), ("ROOMCAST_LOG_LEVEL", "x")]);
    assert_eq!(keys(wrong), ["ROOMCAST_HTTP_SERVER_PORT", "ROOMCAST_LOG_LEVEL"]);
}

#[test]
fn variables_that_nobody_reads_are_said() {
    let config = with_variables(&[
        ("ROOMCAST_VERSION", "1.2.3"),
        ("ROOMCAST_USAGE_STATS_DISABLED", "true"),
        ("CENTRIFUGO_CLIENT_ALLOWED_ORIGINS", "https://a"),
        ("CENTRIFUGO_TOKEN_HMAC_SECRET_KEY", "x"),
        ("CENTRIFUGO_ADMIN_ENABLED", "true"),
        ("CENTRIFUGO_SERVICE_HOST", "10.0.0.1"),
        ("CENTRIFUGO_PORT", "tcp://10.0.0.1:8000"),
    ]);
    let expected = [
        "the variable ROOMCAST_VERSION is ignored: there is no such option",
        "the variable CENTRIFUGO_CLIENT_ALLOWED_ORIGINS is not read; ours is ROOMCAST_CLIENT_ALLOWED_ORIGINS",
        "the variable CENTRIFUGO_TOKEN_HMAC_SECRET_KEY is not read; ours is ROOMCAST_CLIENT_TOKEN_HMAC_SECRET_KEY",
        "the variable CENTRIFUGO_ADMIN_ENABLED is not read, and there is none like it",
    ];
    let (mut notes, mut expected) =
        (config.expect("valid").notes, expected.map(str::to_owned).to_vec());
    notes.sort();
    expected.sort();
    assert_eq!(notes, expected);
    let wrong = with_variables(&[("ROOMCAST_ADMIN_ENABLED", "true"), ("ROOMCAST_LOG_LEVLE", "x")]);
    assert_eq!(keys(wrong), ["ROOMCAST_ADMIN_ENABLED", "ROOMCAST_LOG_LEVLE"]);
}

#[test]
fn variables_that_are_not_text_are_ignored_unless_they_are_options() {
    use std::os::unix::ffi::OsStringExt as _;

    let bytes = || OsString::from_vec(vec![0xff]);
    let of = |name: OsString| load(None, [(name, bytes())], Vec::new());
    for name in ["FOO".into(), "ROOMCAST_VERSION".into(), bytes()] {
        let notes = of(name).expect("valid").notes;
        assert!(notes.len() == 1 && notes[0].ends_with("not UTF-8"), "{notes:?}");
    }
    assert_eq!(keys(of("ROOMCAST_NODE_NAME".into())), ["ROOMCAST_NODE_NAME"]);
}

#[test]
fn a_disk_takes_the_largest_publication_and_bytes_are_bounded_where_rooms_are_on_disk() {
    let rooms = |disk: &str, rooms: &str| {
        format!(
            "{disk}[[channel.namespaces]]\nname = \"ab\"\nhistory_size = 9\nhistory_ttl = \"1m\"\n{rooms}"
        )
    };
    let on_disk = "log = \"disk\"\nhistory_bytes = 1000\n";
    let segments = "[disk]\nsegment_bytes = 1048576\n";
    load_text("toml", &rooms(segments, on_disk)).expect("twice the largest");
    let large = format!("[websocket]\nmessage_size_limit = 524289\n{segments}");
    load_text("toml", &rooms(&large, "")).expect("nothing is on disk");
    let told = problem(&rooms(&large, on_disk));
    assert!(told.starts_with("disk.segment_bytes: at least 1048578: twice the largest"), "{told}");
    let many = format!("{segments}max_bytes = 60_000_000_000\n");
    let told = problem(&rooms(&many, on_disk));
    assert!(told.starts_with("disk.segment_bytes: larger: 57220 of them"), "{told}");
    load_text("toml", &rooms("[disk]\nmax_bytes = 1_000_000_000_000\n", on_disk)).expect("few");
    for (options, why) in [
        ("history_bytes = 1", "needs log = \"disk\""),
        ("log = \"disk\"\nhistory_bytes = 1\nqueue.groups = [\"g\"]", "would drop messages"),
    ] {
        let told = problem(&rooms("", options));
        assert!(told.starts_with("channel.namespaces[0].history_bytes: "), "{told}");
        assert!(told.contains(why), "{told}");
    }
}
