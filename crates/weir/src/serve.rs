//! `weir serve`: from configuration to a running node, and to a graceful end.
//!
//! The order matters: everything that can be checked is checked first, then the data directory is opened (and locked),
//! then the address is taken, and only then is anything served. SIGTERM and SIGINT drain: requests under way are
//! answered, deliveries end, cursors are saved; the process ends with 0.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use weir_node::Node;

use crate::commands::interrupted;
use crate::config::{Config, ServeArgs, is_loopback};
use crate::failure::{Exit, Failure};
use crate::logging;

impl ServeArgs {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let config = self.config()?;
        logging::start(config.log_format, &config.log_level);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("node")
            .build()
            .map_err(|error| Failure::failed(format!("start the runtime: {error}")))?;
        runtime.block_on(serve(config))
    }
}

async fn serve(config: Config) -> Result<(), Failure> {
    let (organization, data) = (config.node.name.clone(), config.node.data.clone());
    let node = open(config.node.clone()).await?;
    if !is_loopback(&config.node.listen) && node.control().read(|state| state.tokens().len() == 0) {
        node.close().await;
        return Err(Failure::usage(format!(
            "{} can be reached from other machines, and there is no token",
            config.node.listen
        ))
        .next(format!(
            "Make yourself one first: weir keys token create --role owner --data {}",
            data.display()
        )));
    }
    let (listener, address) = match listen(config.node.listen).await {
        Ok(taken) => taken,
        Err(failure) => {
            node.close().await;
            return Err(failure);
        }
    };
    let url = config.node.url.clone().unwrap_or_else(|| format!("http://{address}"));
    tracing::info!(%url, %address, %organization, data = %data.display(), "serving");
    if node.control().is_open() {
        tracing::warn!("this node is open: no token was made, so everyone on this machine is its owner");
    }
    if !is_loopback(&address) {
        tracing::warn!(%address, "serving without encryption on an address that other machines can reach");
    }
    node.serve(listener, async {
        interrupted().await;
        tracing::info!("stopping");
    })
    .await;
    tracing::info!("stopped");
    Ok(())
}

/// Opens a node, or says what keeps it from opening.
pub(crate) async fn open(settings: weir_node::Settings) -> Result<Arc<Node>, Failure> {
    let data = settings.data.display().to_string();
    Node::open(settings).await.map_err(|error| {
        let exit = match error.kind() {
            weir_node::Kind::Invalid => Exit::Usage,
            _ => Exit::Failed,
        };
        let failure = Failure::new(exit, format!("open the node in {data}: {error}"));
        match error.kind() {
            weir_node::Kind::Corrupt => {
                failure.next(format!("`weir log check --data {data}` says what is damaged."))
            }
            weir_node::Kind::Unavailable => failure.next("Is another node running on it?"),
            _ => failure,
        }
    })
}

/// Takes the address.
pub(crate) async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Failure> {
    let taken = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    taken.await.map_err(|error: std::io::Error| {
        Failure::failed(format!("listen on {address}: {error}"))
            .next("Something else may be listening there: give another address with --listen IP:PORT.")
    })
}
