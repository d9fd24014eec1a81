//! What a developer runs: `cargo xtask demo | test | bench | lint | ledger | setup`.

mod bench;
mod bench_scheduler;
mod cluster;
mod demo;
mod image;
mod ledger;
mod lint;
mod load;
mod residue;
mod setup;
mod sh;
mod test;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Caravel's developer commands")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Builds, starts a cluster, deploys a real web application and shows it healing, scaling and updating
    Demo(demo::Args),
    /// Everything that must pass; with a name, the part of it that the name picks
    Test(test::Args),
    /// Runs the budgets and prints the figures
    Bench(bench::Args),
    /// Formatting, clippy, dependency directions, file sizes, licences
    Lint,
    /// Checks the conformance ledger and prints how far it is
    Ledger,
    /// Installs what the other commands need from Debian's packages
    Setup,
}

fn main() -> std::process::ExitCode {
    let result = match Args::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Lint => setup::ensure(setup::BUILD).and_then(|()| lint::run()),
        Command::Ledger => ledger::run(),
        Command::Setup => setup::ensure(setup::ALL),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nfailed: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
