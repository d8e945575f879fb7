//! The command line. Flags follow k3s where it has them.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    audit::AuditOptions,
    auth::{AuthenticationOptions, AuthorizationOptions},
};

/// Runs a Kubernetes cluster and shows it.
#[derive(Debug, Parser)]
#[command(name = "pharos", version, about, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a control plane, and a node beside it
    Server(Box<ServerOptions>),
    /// Run a node that joins a server
    Agent(Box<AgentOptions>),
    /// Work with the images of this node
    Image {
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Work with the store of a server: snapshots, moves between engines
    Store {
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Work with the keys that Secrets are encrypted with
    SecretsEncrypt {
        #[command(subcommand)]
        command: SecretsEncryptCommand,
    },
    /// Print the administrator's kubeconfig
    Kubeconfig(KubeconfigOptions),
    /// Work with the tokens that nodes join with
    Token {
        #[command(subcommand)]
        command: TokenCommand,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Search logs with a LogQL query
    Logs(LogsOptions),
    /// Evaluate a PromQL query
    Query(QueryOptions),
    /// Tell whether this machine can run Pharos
    Check(CheckOptions),
    /// Print a completion script for a shell
    Completion { shell: clap_complete::Shell },
    /// Serve the demo: a small web server with metrics, log lines and a DNS check of itself
    #[command(hide = true)]
    Demo(DemoOptions),
}

/// Where a running server is.
#[derive(Debug, Clone, Args)]
pub struct ClientOptions {
    /// The kubeconfig to reach the server with
    #[arg(long, env = "KUBECONFIG", default_value = "/etc/pharos/pharos.yaml", global = true)]
    pub kubeconfig: PathBuf,
}

/// Which container runtime runs the pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Runtime {
    /// The OCI runtime inside Pharos
    Embedded,
    /// A Docker Engine on this machine
    Docker,
}

/// A part of the server that can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// No node: this machine runs no pods
    Agent,
    /// No cluster DNS
    Dns,
    /// No controllers
    Controllers,
    /// No scheduler
    Scheduler,
    /// No service proxy on this node
    Proxy,
    /// No collection and store of metrics
    Metrics,
    /// No log index
    Logging,
}

/// What `server` and `agent` have in common: the node.
#[derive(Debug, Clone, Args)]
pub struct NodeOptions {
    /// Folder of all state
    #[arg(long, short = 'd', env = "PHAROS_DATA_DIR", default_value = "/var/lib/pharos", overrides_with = "data_dir")]
    pub data_dir: PathBuf,
    /// This node's name [default: the host name]
    #[arg(long, env = "PHAROS_NODE_NAME", overrides_with = "node_name")]
    pub node_name: Option<String>,
    /// This node's address, as other nodes reach it [default: that of the default route]
    #[arg(long, env = "PHAROS_NODE_IP", overrides_with = "node_ip")]
    pub node_ip: Option<IpAddr>,
    /// Labels this node registers with, as KEY=VALUE; may be repeated
    #[arg(long, value_delimiter = ',')]
    pub node_label: Vec<String>,
    /// Taints this node registers with, as KEY=VALUE:EFFECT; may be repeated
    #[arg(long, value_delimiter = ',')]
    pub node_taint: Vec<String>,
    /// Which of this node's addresses have node ports: `primary`, those of its Node, or ranges such as 192.168.0.0/16; may be
    /// repeated [default: primary]
    #[arg(long, value_delimiter = ',')]
    pub nodeport_addresses: Vec<String>,
    /// What runs the containers
    #[arg(long, env = "PHAROS_RUNTIME", value_enum, default_value = "embedded", overrides_with = "runtime")]
    pub runtime: Runtime,
    /// Socket of the Docker Engine, with `--runtime docker` [default: /var/run/docker.sock]
    #[arg(long, env = "PHAROS_CONTAINER_RUNTIME_ENDPOINT", overrides_with = "container_runtime_endpoint")]
    pub container_runtime_endpoint: Option<String>,
    /// The resolvers of this machine, for its cluster DNS and for pods of `dnsPolicy: Default` [default: /etc/resolv.conf]
    #[arg(long, env = "PHAROS_RESOLV_CONF", overrides_with = "resolv_conf")]
    pub resolv_conf: Option<PathBuf>,
    /// Port of the kubelet's HTTPS endpoint
    #[arg(long, env = "PHAROS_KUBELET_PORT", default_value_t = 10250, overrides_with = "kubelet_port")]
    pub kubelet_port: u16,
    /// Registries that are spoken to without TLS, besides those on loopback; may be repeated
    #[arg(long, value_delimiter = ',')]
    pub insecure_registry: Vec<String>,
    /// How much is logged to standard error: error, warn, info, debug, trace, or directives such as `info,pharos_node=debug`
    #[arg(long, env = "PHAROS_LOG", default_value = "info", overrides_with = "log_level")]
    pub log_level: String,
    /// How log lines on standard error are written
    #[arg(long, env = "PHAROS_LOG_FORMAT", value_enum, default_value = "text", overrides_with = "log_format")]
    pub log_format: LogFormat,
    /// Where spans are sent by OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces [default: nowhere]
    #[arg(long, env = "PHAROS_OTLP_ENDPOINT", overrides_with = "otlp_endpoint")]
    pub otlp_endpoint: Option<String>,
    /// The share of traces that is kept, from 0 to 1
    #[arg(long, env = "PHAROS_OTLP_SAMPLING", default_value_t = 1.0, overrides_with = "otlp_sampling")]
    pub otlp_sampling: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// logfmt lines
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Debug, Clone, Args)]
pub struct ServerOptions {
    /// A file with these options: YAML, keys named like the flags; `FILE.d/*.yaml` too
    #[arg(long, short = 'c', env = "PHAROS_CONFIG_FILE", default_value = "/etc/pharos/config.yaml")]
    pub config: PathBuf,
    #[command(flatten)]
    pub node: NodeOptions,
    /// Address the API server listens on
    #[arg(long, env = "PHAROS_BIND_ADDRESS", default_value = "0.0.0.0", overrides_with = "bind_address")]
    pub bind_address: IpAddr,
    /// Port the API server listens on
    #[arg(long, alias = "https-listen-port", env = "PHAROS_HTTPS_PORT", default_value_t = 6443, overrides_with = "https_port")]
    pub https_port: u16,
    /// Address other nodes reach the API server at [default: the node's]
    #[arg(long, env = "PHAROS_ADVERTISE_ADDRESS", overrides_with = "advertise_address")]
    pub advertise_address: Option<IpAddr>,
    /// Where the administrator's kubeconfig is written
    #[arg(
        long,
        short = 'o',
        env = "PHAROS_KUBECONFIG_OUTPUT",
        default_value = "/etc/pharos/pharos.yaml",
        overrides_with = "write_kubeconfig"
    )]
    pub write_kubeconfig: PathBuf,
    /// Mode of that file
    #[arg(long, env = "PHAROS_KUBECONFIG_MODE", default_value = "600", overrides_with = "write_kubeconfig_mode")]
    pub write_kubeconfig_mode: String,
    /// Further names and addresses in the API server's certificate; may be repeated
    #[arg(long, value_delimiter = ',')]
    pub tls_san: Vec<String>,
    /// The network of pods
    #[arg(long, env = "PHAROS_CLUSTER_CIDR", default_value = "10.42.0.0/16", overrides_with = "cluster_cidr")]
    pub cluster_cidr: String,
    /// The network of Services
    #[arg(long, env = "PHAROS_SERVICE_CIDR", default_value = "10.43.0.0/16", overrides_with = "service_cidr")]
    pub service_cidr: String,
    /// Ports for Services of type NodePort
    #[arg(
        long,
        env = "PHAROS_SERVICE_NODE_PORT_RANGE",
        default_value = "30000-32767",
        overrides_with = "service_node_port_range"
    )]
    pub service_node_port_range: String,
    /// Together with --max-mutating-requests-inflight: how many requests the API server serves at once
    #[arg(long, env = "PHAROS_MAX_REQUESTS_INFLIGHT", default_value_t = 400, overrides_with = "max_requests_inflight")]
    pub max_requests_inflight: u32,
    /// Together with --max-requests-inflight: how many requests the API server serves at once
    #[arg(
        long,
        env = "PHAROS_MAX_MUTATING_REQUESTS_INFLIGHT",
        default_value_t = 200,
        overrides_with = "max_mutating_requests_inflight"
    )]
    pub max_mutating_requests_inflight: u32,
    /// Address of the cluster DNS [default: the tenth of the network of Services]
    #[arg(long, env = "PHAROS_CLUSTER_DNS", overrides_with = "cluster_dns")]
    pub cluster_dns: Option<IpAddr>,
    /// Domain of the cluster
    #[arg(long, env = "PHAROS_CLUSTER_DOMAIN", default_value = "cluster.local", overrides_with = "cluster_domain")]
    pub cluster_domain: String,
    #[command(flatten)]
    pub datastore: DatastoreOptions,
    /// File with the configuration of admission plugins, as kube-apiserver reads it [default: none]
    #[arg(long, env = "PHAROS_ADMISSION_CONTROL_CONFIG_FILE", overrides_with = "admission_control_config_file")]
    pub admission_control_config_file: Option<PathBuf>,
    /// How long certificates are valid, at most, that are signed for CertificateSigningRequests
    #[arg(
        long,
        env = "PHAROS_CLUSTER_SIGNING_DURATION",
        default_value = "8760h",
        value_parser = crate::audit::duration,
        overrides_with = "cluster_signing_duration"
    )]
    pub cluster_signing_duration: Duration,
    /// Parts to leave out; may be repeated
    #[arg(long, value_enum, value_delimiter = ',')]
    pub disable: Vec<Part>,
    #[command(flatten)]
    pub authentication: AuthenticationOptions,
    #[command(flatten)]
    pub authorization: AuthorizationOptions,
    #[command(flatten)]
    pub audit: AuditOptions,
    /// A TracingConfiguration of apiserver.config.k8s.io: where spans are sent, in place of --otlp-endpoint and --otlp-sampling
    #[arg(long, env = "PHAROS_TRACING_CONFIG_FILE", overrides_with = "tracing_config_file")]
    pub tracing_config_file: Option<PathBuf>,
}

/// Where the objects of a cluster are kept, if not in this server.
#[derive(Debug, Clone, Args)]
pub struct DatastoreOptions {
    /// Members of an etcd cluster, as https://HOST:PORT; may be repeated [default: the store inside Pharos]
    #[arg(long, alias = "etcd-servers", env = "PHAROS_DATASTORE_ENDPOINT", value_delimiter = ',')]
    pub datastore_endpoint: Vec<String>,
    /// CA certificates (PEM) that vouch for etcd [default: the system's]
    #[arg(long, alias = "datastore-cafile", env = "PHAROS_DATASTORE_CAFILE", overrides_with = "etcd_cafile")]
    pub etcd_cafile: Option<PathBuf>,
    /// The client certificate (PEM) to show to etcd
    #[arg(long, alias = "datastore-certfile", env = "PHAROS_DATASTORE_CERTFILE", overrides_with = "etcd_certfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, alias = "datastore-keyfile", env = "PHAROS_DATASTORE_KEYFILE", overrides_with = "etcd_keyfile")]
    pub etcd_keyfile: Option<PathBuf>,
    /// What all keys in etcd start with
    #[arg(long, env = "PHAROS_ETCD_PREFIX", default_value = "/registry", overrides_with = "etcd_prefix")]
    pub etcd_prefix: String,
}

#[derive(Debug, Clone, Args)]
pub struct AgentOptions {
    /// A file with these options: YAML, keys named like the flags; `FILE.d/*.yaml` too
    #[arg(long, short = 'c', env = "PHAROS_CONFIG_FILE", default_value = "/etc/pharos/config.yaml")]
    pub config: PathBuf,
    #[command(flatten)]
    pub node: NodeOptions,
    /// The server to join, as https://HOST:PORT
    #[arg(long, short = 's', env = "PHAROS_URL", overrides_with = "server")]
    pub server: String,
    /// The token to join with; needed once, until this node has its own certificate
    #[arg(long, short = 't', env = "PHAROS_TOKEN", overrides_with = "token")]
    pub token: Option<String>,
    /// A file that holds the token
    #[arg(long, env = "PHAROS_TOKEN_FILE", overrides_with = "token_file")]
    pub token_file: Option<PathBuf>,
}

/// Which node's images are meant: the one whose state is in this folder.
#[derive(Debug, Clone, Args)]
pub struct ImageOptions {
    /// Folder of the node's state
    #[arg(long, short = 'd', env = "PHAROS_DATA_DIR", default_value = "/var/lib/pharos")]
    pub data_dir: PathBuf,
    /// What runs the containers there
    #[arg(long, env = "PHAROS_RUNTIME", value_enum, default_value = "embedded")]
    pub runtime: Runtime,
}

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Load images from OCI or docker archives (plain, gzip or zstd)
    Load {
        /// The archives; `-` is standard input
        #[arg(required = true)]
        archives: Vec<PathBuf>,
        #[command(flatten)]
        options: ImageOptions,
    },
    /// List the images
    Ls {
        #[command(flatten)]
        options: ImageOptions,
        /// Print names alone
        #[arg(long, short)]
        quiet: bool,
    },
    /// Remove images
    Rm {
        /// Names or digests
        #[arg(required = true)]
        images: Vec<String>,
        #[command(flatten)]
        options: ImageOptions,
    },
    /// Make an image of this program, with its demo web server as entry point, as a docker archive
    BuildDemo {
        /// The file to write
        #[arg(long, short)]
        output: PathBuf,
        /// The image's name
        #[arg(long, default_value = "pharos.io/demo:latest")]
        tag: String,
    },
}

/// Which server's store is meant: the one whose state is in this folder.
#[derive(Debug, Clone, Args)]
pub struct StoreOptions {
    /// Folder of the server's state
    #[arg(long, short = 'd', env = "PHAROS_DATA_DIR", default_value = "/var/lib/pharos")]
    pub data_dir: PathBuf,
}

/// An engine of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// The store inside Pharos
    Embedded,
    /// An etcd cluster
    Etcd,
}

#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Write the state of a running server's store to a file
    Snapshot {
        /// The file [default: a new one in DATA/server/snapshots]
        #[arg(long, short)]
        output: Option<PathBuf>,
        #[command(flatten)]
        options: StoreOptions,
    },
    /// Make a snapshot the state of the embedded store; no server may run
    Restore {
        /// The snapshot
        snapshot: PathBuf,
        /// The file of encryption keys that the snapshot was taken under [default: the store's]
        #[arg(long)]
        encryption_keys: Option<PathBuf>,
        /// Go on at a revision that is so much higher than the snapshot's
        #[arg(long, default_value_t = 0)]
        bump_revision: u64,
        #[command(flatten)]
        options: StoreOptions,
    },
    /// Tell of a running server's store, or check a snapshot and tell of it
    Status {
        /// The snapshot
        snapshot: Option<PathBuf>,
        /// How to print it
        #[arg(long, short, value_enum, default_value = "text")]
        output: Output,
        #[command(flatten)]
        options: StoreOptions,
    },
    /// Give space that a running server's store does not use back to the file system
    Defrag {
        #[command(flatten)]
        options: StoreOptions,
    },
    /// Copy the state from one engine into the other, which must be empty; no server may run
    Migrate {
        /// The engine to copy to
        #[arg(long, value_enum)]
        to: Engine,
        #[command(flatten)]
        datastore: DatastoreOptions,
        #[command(flatten)]
        options: StoreOptions,
    },
}

#[derive(Debug, Subcommand)]
pub enum SecretsEncryptCommand {
    /// Print the keys and how far a rotation is
    Status {
        /// How to print it
        #[arg(long, short, value_enum, default_value = "text")]
        output: Output,
        #[command(flatten)]
        options: StoreOptions,
    },
    /// Make a new key that does not encrypt yet
    Prepare {
        #[command(flatten)]
        options: StoreOptions,
    },
    /// Let the new key encrypt from now on
    Rotate {
        #[command(flatten)]
        options: StoreOptions,
    },
    /// Write every Secret again, under the new key
    Reencrypt {
        #[command(flatten)]
        options: StoreOptions,
    },
    /// All of that at once, where one server uses the store
    RotateKeys {
        #[command(flatten)]
        options: StoreOptions,
    },
}

#[derive(Debug, Args)]
pub struct KubeconfigOptions {
    /// The file that the server wrote
    #[arg(long, env = "PHAROS_KUBECONFIG_OUTPUT", default_value = "/etc/pharos/pharos.yaml")]
    pub file: PathBuf,
    /// The server's address to put in, as https://HOST:PORT, for use on another machine
    #[arg(long)]
    pub server: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it, with the CA's hash in front
    Create {
        /// How long it is valid (30m, 24h, 7d); 0 means for ever
        #[arg(long, default_value = "24h")]
        ttl: String,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
    },
    /// List the tokens; secrets are not shown
    List {
        /// How to print them
        #[arg(long, short, value_enum, default_value = "text")]
        output: Output,
    },
    /// Delete tokens
    Delete {
        /// Their IDs
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub struct LogsOptions {
    /// The query, such as `{namespace="default"} |= "error"`
    pub query: String,
    #[command(flatten)]
    pub client: ClientOptions,
    /// How far back to look (15m, 1h, 2d)
    #[arg(long, default_value = "1h")]
    pub since: String,
    /// At most so many lines, the newest
    #[arg(long, default_value_t = 100)]
    pub limit: u32,
    /// Keep printing lines as they come
    #[arg(long, short)]
    pub follow: bool,
    /// How to print them
    #[arg(long, short, value_enum, default_value = "text")]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct QueryOptions {
    /// The query, such as `sum by (job, level) (rate(pharos_log_records_total[5m]))`
    pub query: String,
    #[command(flatten)]
    pub client: ClientOptions,
    /// Evaluate over this long, up to now, rather than once (15m, 1h, 2d)
    #[arg(long)]
    pub range: Option<String>,
    /// The distance of points in a range
    #[arg(long, default_value = "1m")]
    pub step: String,
    /// How to print the result
    #[arg(long, short, value_enum, default_value = "text")]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct CheckOptions {
    /// Ports that must be free
    #[arg(long, value_delimiter = ',', default_values_t = [6443, 10250])]
    pub port: Vec<u16>,
    /// Folder that state will be in
    #[arg(long, short = 'd', env = "PHAROS_DATA_DIR", default_value = "/var/lib/pharos")]
    pub data_dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct DemoOptions {
    /// Address to listen on
    #[arg(long, env = "DEMO_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: std::net::SocketAddr,
    /// The name that the DNS check resolves
    #[arg(long, env = "DEMO_RESOLVE", default_value = "kubernetes.default.svc")]
    pub resolve: String,
    /// Seconds between two DNS checks
    #[arg(long, env = "DEMO_CHECK_SECONDS", default_value_t = 15)]
    pub check_seconds: u64,
}
