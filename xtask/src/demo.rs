//! The demo: to be a cluster, a vault and the operator from nothing, and a certificate arriving and renewing.
//! Not built yet.

use anyhow::bail;

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// End by itself, with exit status 0 only if every step was seen
    #[arg(long)]
    once: bool,
}

/// # Errors
/// Always, until the demo is built.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { once: _ } = arguments;
    bail!("the demo is not built yet")
}
