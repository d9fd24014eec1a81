//! `caravel token`: the tokens with which nodes join.

use super::bootstrap::{Pin, bootstrap_token};
use crate::args::DataDir;
use crate::instance::{self, Instance};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::json;

/// The type of the Secrets that hold tokens.
const TYPE: &str = "bootstrap.kubernetes.io/token";
const NAMESPACE: &str = "kube-system";

#[derive(Args, Clone)]
pub struct Token {
    #[command(flatten)]
    data: DataDir,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Clone)]
enum Command {
    /// Makes a token and prints it, with the authority's hash behind an `@`
    Create {
        /// How long it is good, as `24h`, `30m` or `7d`; `0` is for ever
        #[arg(long, default_value = "24h")]
        ttl: String,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
        /// Print the whole command by which a node joins
        #[arg(long)]
        print_join_command: bool,
    },
    /// Lists the tokens, without their secrets
    Ls,
    /// Removes tokens by their id, the part before the dot
    Rm {
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

/// Runs it.
pub fn run(args: Token) -> Result<()> {
    let dir = &args.data.path;
    if Instance::read(dir)?.is_none() {
        bail!("no cluster has been started in {}; `caravel up` starts one", dir.display());
    }
    let runtime = crate::run::runtime()?;
    runtime.block_on(async {
        let client = crate::ready::client(&instance::kubeconfig_path(dir)).await?;
        match args.command {
            Command::Create { ttl, description, print_join_command } => {
                let (server, pin) = cluster(&client).await?;
                let token = create(&client, &ttl, &description).await?;
                if print_join_command {
                    println!("caravel agent --server {server} --token {token}@{pin}");
                } else {
                    println!("{token}@{pin}");
                }
                Ok(())
            }
            Command::Ls => list(&client).await,
            Command::Rm { ids } => remove(&client, &ids).await,
        }
    })
}

/// The API server's address for nodes, and the pin of its authority.
async fn cluster(client: &kube::Client) -> Result<(String, Pin)> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), super::INFO.0);
    let map = maps.get(super::INFO.1).await.context("the cluster publishes no address for nodes yet")?;
    let info = super::bootstrap::Info::read(&map)?;
    Ok((info.server, Pin::of_pem(&info.ca_pem)?))
}

async fn create(client: &kube::Client, ttl: &str, description: &str) -> Result<String> {
    let (id, secret) = (random(6), random(16));
    let mut data = json!({
        "token-id": id, "token-secret": secret, "description": description,
        "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true",
    });
    if let Some(life) = lifetime(ttl)? {
        data["expiration"] = json!(Timestamp::now().saturating_add(life)?.round(jiff::Unit::Second)?.to_string());
    }
    let object: Secret = serde_json::from_value(json!({
        "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": NAMESPACE},
        "type": TYPE, "stringData": data,
    }))?;
    Api::<Secret>::namespaced(client.clone(), NAMESPACE).create(&PostParams::default(), &object).await?;
    Ok(format!("{id}.{secret}"))
}

/// Random lower-case letters and digits.
fn random(length: usize) -> String {
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    (0..length).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect()
}

/// `24h`, `30m`, `90s`, `7d`; `0` is without end.
fn lifetime(text: &str) -> Result<Option<SignedDuration>> {
    if text == "0" {
        return Ok(None);
    }
    let explain = || format!("--ttl {text}: it must be a number with s, m, h or d, as `24h`; or `0` for no end");
    let unit = text.chars().last().with_context(explain)?;
    let number: i64 = text[..text.len() - unit.len_utf8()].parse().with_context(explain)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => bail!(explain()),
    };
    let seconds = number.checked_mul(seconds).filter(|s| (1..=100 * 365 * 86_400).contains(s)).with_context(explain)?;
    Ok(Some(SignedDuration::from_secs(seconds)))
}

async fn list(client: &kube::Client) -> Result<()> {
    let api = Api::<Secret>::namespaced(client.clone(), NAMESPACE);
    println!("{:<8} {:<22} DESCRIPTION", "ID", "EXPIRES");
    for secret in api.list(&ListParams::default().fields(&format!("type={TYPE}"))).await? {
        let text = |key: &str| {
            let bytes = secret.data.as_ref().and_then(|d| d.get(key));
            bytes.map(|b| String::from_utf8_lossy(&b.0).into_owned()).filter(|t| !t.is_empty())
        };
        let expires = text("expiration").unwrap_or_else(|| "never".into());
        println!(
            "{:<8} {expires:<22} {}",
            text("token-id").unwrap_or_default(),
            text("description").unwrap_or_default()
        );
    }
    Ok(())
}

async fn remove(client: &kube::Client, ids: &[String]) -> Result<()> {
    let api = Api::<Secret>::namespaced(client.clone(), NAMESPACE);
    for id in ids {
        // A whole token is taken, too.
        let id = bootstrap_token(id).map_or(id.as_str(), |(id, _)| id);
        let name = format!("bootstrap-token-{id}");
        match api.delete(&name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                bail!("there is no token {id}; `caravel token ls` lists them");
            }
            other => drop(other?),
        }
        println!("token {id} is removed; nodes that joined with it stay");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes() {
        assert_eq!(lifetime("0").ok().flatten(), None);
        assert_eq!(lifetime("2h").ok().flatten(), Some(SignedDuration::from_secs(7200)));
        for bad in ["", "h", "5", "-1h", "1w", "99999999999999d"] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn made_tokens_have_the_form_of_tokens() {
        let token = format!("{}.{}", random(6), random(16));
        assert!(bootstrap_token(&token).is_some(), "{token}");
    }
}
