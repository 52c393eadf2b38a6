//! Runs the promises of one file on one stage: together, or one by one where they end and start the operator. Says what was
//! to be seen when one is broken, and takes the stage down however they ended. What is promised is left to `tests/`.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::future::BoxFuture;
use libtest_mimic::{Arguments, Conclusion, Failed, Trial};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

use crate::scene::Scene;
use crate::stage::Stage;

/// Promises that are tested at a time on one stage: they wait most of the time.
const TOGETHER: usize = 6;

/// A promise that is neither kept nor broken by then is broken. The longest waits for two comparisons of one KeyVault, which
/// are at least five minutes apart.
const LIMIT: Duration = Duration::from_secs(600);

/// How the promises of a file share their stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// At the same time, with one operator that runs all the while.
    Together,
    /// One after the other; each starts and ends operators of its own.
    OneByOne,
}

/// A promise: its name, and the test that holds it.
pub struct Promise {
    /// The sentence, in the form of a function's name.
    pub name: &'static str,
    /// The test; its namespace and vault are its own.
    pub test: fn(Scene) -> BoxFuture<'static, anyhow::Result<()>>,
}

/// Makes `main` of a test file: the order, then the functions `async fn(Scene) -> anyhow::Result<()>`.
#[macro_export]
macro_rules! promises {
    ($order:ident: $($test:ident),+ $(,)?) => {
        fn main() -> std::process::ExitCode {
            let promises = vec![$($crate::promises::Promise {
                name: stringify!($test),
                test: |scene| Box::pin($test(scene)),
            }),+];
            $crate::promises::run($crate::promises::Order::$order, promises)
        }
    };
}

/// Runs the promises as `cargo test` asks for, and last a search of everything that was logged and told for key material.
pub fn run(order: Order, promises: Vec<Promise>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = match order {
        Order::Together => arguments.test_threads.or(Some(TOGETHER)),
        Order::OneByOne => Some(1),
    };
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start an async runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let theatre = Arc::new(Theatre { order, runtime, stage: OnceCell::new() });
    let trials = promises
        .into_iter()
        .enumerate()
        .map(|(number, promise)| {
            let theatre = Arc::clone(&theatre);
            Trial::test(promise.name, move || theatre.play(number + 1, promise.test))
        })
        .collect();
    let played = libtest_mimic::run(&arguments, trials);
    let searching = Arc::clone(&theatre);
    let search =
        Trial::test("nothing_of_a_key_or_token_is_in_any_log_event_or_status", move || searching.search());
    let searched = libtest_mimic::run(&arguments, vec![search]);
    theatre.close();
    if failed(&played) || failed(&searched) { ExitCode::from(101) } else { ExitCode::SUCCESS }
}

fn failed(conclusion: &Conclusion) -> bool {
    conclusion.num_failed > 0
}

struct Theatre {
    order: Order,
    runtime: Runtime,
    /// Made for the first promise that is asked for; a stage that does not stand is not tried for every one again.
    stage: OnceCell<Result<Arc<Stage>, String>>,
}

impl Theatre {
    fn play(
        &self,
        number: usize,
        test: fn(Scene) -> BoxFuture<'static, anyhow::Result<()>>,
    ) -> Result<(), Failed> {
        self.runtime.block_on(async {
            let stage = self.stage().await?;
            if self.order == Order::Together {
                stage.running().await.map_err(text)?;
            }
            let scene = Scene::on(stage, &format!("scene-{number:02}")).await.map_err(text)?;
            let play = tokio::time::timeout(LIMIT, test(scene.clone()));
            let outcome = play.await.with_context(|| format!("not done in {} s", LIMIT.as_secs()));
            match outcome.and_then(|outcome| outcome) {
                Ok(()) => Ok(()),
                Err(error) => Err(Failed::from(format!("{error:#}\n{}", scene.dump().await))),
            }
        })
    }

    fn search(&self) -> Result<(), Failed> {
        self.runtime.block_on(async {
            let stage = self.stage().await?;
            match stage.leak().await.map_err(text)? {
                None => Ok(()),
                Some(finding) => Err(Failed::from(finding)),
            }
        })
    }

    async fn stage(&self) -> Result<Arc<Stage>, Failed> {
        let start = || async { Stage::start().await.map(Arc::new).map_err(|error| format!("{error:#}")) };
        self.stage.get_or_init(start).await.clone().map_err(Failed::from)
    }

    /// Takes the stage down in order. What does not end so ends with this process.
    fn close(&self) {
        let Some(Ok(stage)) = self.stage.get() else { return };
        if let Err(error) = self.runtime.block_on(stage.close()) {
            eprintln!("the stage did not end in order: {error:#}");
        }
    }
}

fn text(error: anyhow::Error) -> Failed {
    Failed::from(format!("{error:#}"))
}
