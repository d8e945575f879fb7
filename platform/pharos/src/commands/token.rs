//! `pharos token`: bootstrap tokens (Secrets of type `bootstrap.kubernetes.io/token` in `kube-system`), that nodes join with.
//!
//! A token is printed as `K10<hash of the CA>::<id>.<secret>`: a node checks the CA before it sends the rest.

use std::collections::BTreeMap;

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use rand::Rng as _;

use crate::{
    cli::{ClientOptions, Output, TokenCommand},
    commands::{client, duration, said, say},
};

const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
/// The group that a node's token is in, and that may post to the join path.
pub const GROUP: &str = "system:bootstrappers:pharos:default-node-token";

pub async fn run(command: TokenCommand, options: &ClientOptions) -> anyhow::Result<()> {
    let client = client(&options.kubeconfig).await?;
    let secrets: Api<Secret> = Api::namespaced(client, "kube-system");
    match command {
        TokenCommand::Create { ttl, description } => {
            let ttl = duration(&ttl)?;
            let expiry = if ttl.is_zero() { None } else { Some(Timestamp::now().checked_add(ttl).context("ttl is too long")?) };
            let (id, secret) = (random(6), random(16));
            secrets.create(&PostParams::default(), &token(&id, &secret, expiry, &description)).await.map_err(said)?;
            let kubeconfig = std::fs::read_to_string(&options.kubeconfig)?;
            let ca = crate::files::ca_of_kubeconfig(&kubeconfig)?;
            say(&format!("K10{}::{id}.{secret}", pharos_transport::pki::hash_of_pem(&ca)));
        }
        TokenCommand::List { output } => {
            let selector = ListParams::default().fields("type=bootstrap.kubernetes.io/token");
            let rows: Vec<Row> = secrets.list(&selector).await.map_err(said)?.items.iter().map(Row::of).collect();
            match output {
                Output::Json => say(&serde_json::to_string_pretty(&rows)?),
                Output::Text => {
                    say(&format!("{:<8}  {:<24}  {:<24}  {}", "TOKEN", "EXPIRES", "USAGES", "DESCRIPTION"));
                    for row in rows {
                        let expires = row.expires.as_deref().unwrap_or("<never>");
                        say(&format!("{:<8}  {expires:<24}  {:<24}  {}", row.token, row.usages.join(","), row.description));
                    }
                }
            }
        }
        TokenCommand::Delete { ids } => {
            for id in ids {
                // The whole token is accepted too.
                let id = id.rsplit("::").next().unwrap_or(&id).split('.').next().unwrap_or_default().to_owned();
                secrets.delete(&format!("bootstrap-token-{id}"), &DeleteParams::default()).await.map_err(said)?;
                say(&format!("bootstrap token \"{id}\" deleted"));
            }
        }
    }
    Ok(())
}

#[derive(serde::Serialize)]
struct Row {
    token: String,
    expires: Option<String>,
    usages: Vec<String>,
    description: String,
}

impl Row {
    fn of(secret: &Secret) -> Self {
        let text = |key: &str| {
            let bytes = secret.data.as_ref().and_then(|d| d.get(key));
            bytes.map(|b| String::from_utf8_lossy(&b.0).into_owned()).filter(|t| !t.is_empty())
        };
        let usages = ["signing", "authentication"];
        Self {
            token: text("token-id").unwrap_or_default(),
            expires: text("expiration"),
            usages: usages
                .iter()
                .filter(|u| text(&format!("usage-bootstrap-{u}")).as_deref() == Some("true"))
                .map(|u| (*u).into())
                .collect(),
            description: text("description").unwrap_or_default(),
        }
    }
}

fn random(length: usize) -> String {
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

/// A token as upstream stores it (`cluster-bootstrap/token`).
fn token(id: &str, secret: &str, expiry: Option<Timestamp>, description: &str) -> Secret {
    let mut data = BTreeMap::from([
        ("token-id".to_owned(), id.to_owned()),
        ("token-secret".to_owned(), secret.to_owned()),
        ("usage-bootstrap-authentication".to_owned(), "true".to_owned()),
        ("usage-bootstrap-signing".to_owned(), "true".to_owned()),
        ("auth-extra-groups".to_owned(), GROUP.to_owned()),
    ]);
    if let Some(expiry) = expiry {
        data.insert("expiration".into(), expiry.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    }
    if !description.is_empty() {
        data.insert("description".into(), description.into());
    }
    Secret {
        metadata: ObjectMeta {
            name: Some(format!("bootstrap-token-{id}")),
            namespace: Some("kube-system".into()),
            ..ObjectMeta::default()
        },
        type_: Some("bootstrap.kubernetes.io/token".into()),
        data: Some(data.into_iter().map(|(k, v)| (k, ByteString(v.into_bytes()))).collect()),
        ..Secret::default()
    }
}
