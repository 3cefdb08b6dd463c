//! SHELL. The commands that write configurations.

use std::{fs::OpenOptions, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::PathBuf};

use anyhow::Context as _;
use clap::Args;
use roomcast::config::{Problems, load};
use serde_json::json;

/// Writes a configuration to begin with.
#[derive(Args)]
pub struct Generate {
    /// The file to write: .toml, .json, .yaml or .yml. It must not be there yet.
    #[arg(long, short, default_value = "config.toml")]
    config: PathBuf,
}

impl Generate {
    pub fn write(&self) -> anyhow::Result<()> {
        let (token, key) = (secret()?, secret()?);
        let text = match self.config.extension().and_then(|it| it.to_str()) {
            Some("toml") => format!(
                "[client]\n# Origins of the pages that may connect, like \"https://example.com\".\nallowed_origins = []\n\n\
                 [client.token]\nhmac_secret_key = \"{token}\"\n\n[http_api]\nkey = \"{key}\"\n"
            ),
            Some("json") => {
                let it = json!({
                    "client": {"allowed_origins": [], "token": {"hmac_secret_key": token}},
                    "http_api": {"key": key},
                });
                format!("{it:#}\n")
            }
            Some("yaml" | "yml") => format!(
                "client:\n  # Origins of the pages that may connect, like \"https://example.com\".\n  allowed_origins: []\n  \
                 token:\n    hmac_secret_key: \"{token}\"\nhttp_api:\n  key: \"{key}\"\n"
            ),
            _ => anyhow::bail!(
                "{}: its name should end in .toml, .json or .yaml",
                self.config.display()
            ),
        };
        let name = self.config.display();
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.config);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("{name} can't be written"))?;
        super::print(&format!("{name} is written. To run a node with it: roomcast -c {name}\n"));
        Ok(())
    }
}

fn secret() -> anyhow::Result<String> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)?;
    Ok(secret.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Says what a configuration of Centrifugo comes to.
#[derive(Args)]
pub struct Migrate {
    /// Configuration file of Centrifugo v5 or v6: .toml, .json, .yaml or .yml.
    file: PathBuf,
}

impl Migrate {
    pub fn print(&self) -> anyhow::Result<()> {
        let it = load::migrate(&self.file).map_err(Problems::from)?;
        for line in &it.said {
            super::say(line);
        }
        super::print(&it.toml);
        it.result.map_err(Into::into)
    }
}

/// All problems, each on a line, if there is more than one.
pub fn say_all(what: &str, problems: &Problems) -> String {
    let list = problems.list();
    match list {
        [one] => format!("{what}: {one}"),
        _ => {
            let lines: Vec<String> = list.iter().map(|it| format!("\n  {it}")).collect();
            format!("{what}; {} things are wrong:{}", list.len(), lines.concat())
        }
    }
}
