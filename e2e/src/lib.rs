//! A real Kubernetes control plane on loopback, and what tests and the demo need around it: processes that surely end,
//! certificates, waiting. Knows nothing of the operator's insides; the promises themselves are in `tests/`.

pub mod certificates;
pub mod cluster;
pub mod collector;
mod control_plane;
pub mod debian;
pub mod dns;
mod guardian;
pub mod image;
mod kubeconfig;
pub mod leaks;
pub mod node;
pub mod operator;
pub mod process;
pub mod promises;
pub mod relay;
pub mod sandbox;
pub mod scene;
pub mod stage;
pub mod tools;
pub mod wait;

pub use cluster::LocalCluster;
pub use process::Process;
pub use scene::Scene;
pub use stage::Stage;
