//! `caravel image`: images without a registry.

use crate::args::DataDir;
use crate::containerfile;
use crate::instance::Instance;
use crate::wire;
use anyhow::{Context, Result, bail};
use caravel_runtime::images::{Builder, FileSource, Images};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};

#[derive(Args, Clone)]
pub struct Image {
    #[command(flatten)]
    data: DataDir,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Clone)]
enum Command {
    /// Brings images from archives (`docker save`, OCI layouts; .tar or .tar.gz) into the node
    Import {
        /// Archives
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The name, for an archive that carries none
        #[arg(short = 't', long = "tag")]
        name: Option<String>,
    },
    /// Builds an image from files, as a Containerfile without RUN says, into the node
    Build {
        /// The directory with the Containerfile (or Dockerfile) and what it copies
        context: PathBuf,
        /// The image's name
        #[arg(short = 't', long = "tag")]
        name: String,
        /// The Containerfile [default: Containerfile or Dockerfile in the directory]
        #[arg(short, long)]
        file: Option<PathBuf>,
    },
    /// Lists the node's images
    Ls,
    /// Removes images by name
    Rm {
        #[arg(required = true)]
        names: Vec<String>,
    },
}

impl Image {
    pub fn run(self) -> Result<()> {
        let dir = &self.data.path;
        let Some(instance) = Instance::read(dir)? else {
            bail!("no cluster has been started in {}; `caravel up` starts one", dir.display());
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(async {
            let images = wire::images(&instance)?;
            match self.command {
                Command::Import { files, name } => import(&images, files, name).await,
                Command::Build { context, name, file } => build(&images, &context, &name, file.as_deref()).await,
                Command::Ls => list(&images).await,
                Command::Rm { names } => remove(&images, names).await,
            }
        })
    }
}

async fn import(images: &Images, files: Vec<PathBuf>, name: Option<String>) -> Result<()> {
    for file in files {
        let imported = images.import(file.clone(), name.clone()).await.with_context(|| file.display().to_string())?;
        imported.iter().for_each(|name| println!("{name}"));
    }
    Ok(())
}

async fn build(images: &Images, context: &Path, name: &str, file: Option<&Path>) -> Result<()> {
    let builder = recipe(context, name, file)?;
    let bundle = tokio::task::spawn_blocking(move || builder.build()).await??;
    images.put(&bundle, true).await?;
    println!("{name}");
    Ok(())
}

/// The builder that the Containerfile describes.
fn recipe(context: &Path, name: &str, file: Option<&Path>) -> Result<Builder> {
    let file = match file {
        Some(file) => file.to_owned(),
        None => ["Containerfile", "Dockerfile"]
            .iter()
            .map(|n| context.join(n))
            .find(|p| p.is_file())
            .with_context(|| format!("{} has neither a Containerfile nor a Dockerfile", context.display()))?,
    };
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let recipe = containerfile::parse(&text).with_context(|| file.display().to_string())?;
    let mut builder = Builder::new(name)?;
    for (from, to) in &recipe.copies {
        copy(&mut builder, context, from, to)?;
    }
    builder.env.extend(recipe.env.iter().map(|(k, v)| format!("{k}={v}")));
    builder.entrypoint = recipe.entrypoint;
    builder.cmd = recipe.cmd;
    builder.user = recipe.user;
    builder.working_dir = recipe.workdir;
    builder.exposed_ports = recipe.ports;
    builder.labels = recipe.labels;
    builder.stop_signal = recipe.stop_signal.unwrap_or_default();
    Ok(builder)
}

fn copy(builder: &mut Builder, context: &Path, from: &str, to: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let source = context.join(from.trim_start_matches('/'));
    let real = source.canonicalize().with_context(|| format!("COPY {from}: it is not in {}", context.display()))?;
    if !real.starts_with(context.canonicalize()?) {
        bail!("COPY {from}: it lies outside of {}", context.display());
    }
    if real.is_dir() {
        builder.tree(&real, to)?;
        return Ok(());
    }
    let base = Path::new(from).file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let to = if to.ends_with('/') { format!("{to}{base}") } else { to.to_owned() };
    let mode = std::fs::metadata(&real)?.permissions().mode() & 0o7777;
    builder.file(&to, FileSource::Path(real), mode)?;
    Ok(())
}

async fn list(images: &Images) -> Result<()> {
    let mut all = images.list().await?;
    all.retain(|i| !i.name.starts_with("sha256:"));
    all.sort_by(|a, b| a.name.cmp(&b.name));
    println!("{:<60} {:<20} PINNED", "NAME", "DIGEST");
    for image in all {
        let digest: String = image.digest.chars().take(19).collect();
        println!("{:<60} {digest:<20} {}", image.name, if image.pinned() { "yes" } else { "no" });
    }
    Ok(())
}

async fn remove(images: &Images, names: Vec<String>) -> Result<()> {
    for name in names {
        images.remove(&name).await.with_context(|| name.clone())?;
        println!("{name}");
    }
    Ok(())
}
