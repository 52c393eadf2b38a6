//! Measurements of the operator on a real API server. They print numbers; they are no tests.
//! Not built yet.

use anyhow::bail;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What to measure
    measure: String,
}

/// # Errors
/// Always, until the measurements are built.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    bail!("the measurement `{}` is not built yet", arguments.measure)
}
