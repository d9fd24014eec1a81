//! The program: the command line, and the one place where the rooms are wired together.

mod args;
mod audit_args;
mod containerfile;
mod detach;
mod down;
mod duration;
mod image;
mod instance;
mod join;
mod preflight;
mod ready;
mod run;
mod scheduling;
mod serving;
mod status;
mod up;
mod why;
mod wire;

use clap::Parser;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // containerd runs this same program as its CNI plug-in; that must stay quick, so it comes before all else.
    if let Some(code) = caravel_network::cni::main_if_plugin() {
        return code;
    }
    let args = args::Args::parse();
    match args.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("caravel: {error:#}");
            ExitCode::FAILURE
        }
    }
}
