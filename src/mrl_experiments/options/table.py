"""Every option of the commands: its kind and range, and what it means in a line.

A key names an option inside its file or group; `*` stands for any key or place in a list, and a key that ends
in a dot for the options inside it.
"""

from dataclasses import replace
from typing import Any

from mrl_experiments.names import LONGEST, RECIPES, SIMILARITIES
from mrl_experiments.options.kinds import (
    Batches,
    Choice,
    Either,
    Flag,
    Label,
    List,
    Map,
    Name,
    Node,
    Number,
    Option,
    Path,
    Text,
    Whole,
)

Options = dict[str, Option]

SEED = 4_000_000_000  # below 2**32, and with room for the numbers of processes
WORKERS = 512


def seed(meaning: str = "fixes all that is random", *, null: bool = False) -> Whole:
    """Return the kind of a seed."""
    return Whole(meaning, low=0, high=SEED, null=null)


def count(meaning: str, *, low: int = 1, **range_and_unit: Any) -> Whole:
    """Return the kind of a number of things."""
    return Whole(meaning, low=low, **range_and_unit)


def share(meaning: str, *, null: bool = False) -> Number:
    """Return the kind of a share from 0 to 1."""
    return Number(meaning, low=0, high=1, null=null)


OR_NULL = Option("options, or none of them", null=True)  # of keys that end in a dot
ROOT = Path("the folder that holds runs/", example="outputs")
CACHE = Path("where prepared files go", null=True, empty=True, example="~/.cache/mrl-experiments")
TRUST = Either(
    "classes of your own that a stored configuration may build", (Flag(), List("", Text(), least=0))
)
ANY_COMMAND: Options = {"root": ROOT, "debug": Flag("full tracebacks")}
STORED_RUN: Options = {"cache": CACHE, "trust": TRUST, **ANY_COMMAND}
WEIGHTS: Options = {
    "checkpoint": Text("one that the run has kept, by its name, or a path", example="best"),
    "weights": Choice("which of a checkpoint's", ("averaged", "ema", "current"), null=True),
}
SPLIT = Name(without="@")
RUNS = Text("a name or a glob of runs under <root>/runs", example="mrl_resnet10t_kanji1k_s0")
DIMS = Whole(low=1)
SIMILARITY = Choice("by which vectors are compared", SIMILARITIES)
EPOCHS, STEPS = Whole(low=1, high=1_000_000, unit="epochs"), Whole(low=1, unit="steps")
TARGET = Choice(
    "where vectors go", ("parquet", "faiss", "pgvector", "milvus", "lancedb", "qdrant"), null=True
)
URI = Text("the engine's address, or a file or folder", null=True, example="http://localhost:19530")
COLLECTION = Text(
    "the collection or table", null=True, pattern=r"[A-Za-z_]\w{0,62}", called="letters, digits and _",
    example="photos",
)  # fmt: skip
TIME = (
    Text(pattern=r"\d+:\d\d?:\d\d?:\d\d?", called='"days:hours:minutes:seconds"'),
    Map("", Number(low=0)),
)

COMMANDS: dict[str, Options] = {
    "train": {
        "seed": seed(),
        "epochs": replace(EPOCHS, meaning="passes over the training data"),
        "init_from": Name("a finished run whose backbone this one starts from", null=True, longest=255),
        "compile": Flag("torch.compile of the backbone"),
        "optimized_metric": Text("what a sweep optimizes", null=True, example="val/top1@8"),
        "train_only": List("parameters or modules, with * and ?", Text(), null=True, example=["head"]),
        "label": Label("sets a run apart in name and tables", null=True, empty=True, example="first/4"),
        "tag": Name("added to the run's name", part=True, empty=True, longest=100, example="_second"),
        "auto_tag": Flag("a tag of the options that are typed and not in the name"),
        "run_name": Name("the run's folder", null=True, longest=LONGEST, example="my_run"),
        "trust": TRUST,
        **ANY_COMMAND,
        "unfreeze": Text("one of the layers of a recipe of fine-tuning"),
        "layers": Map("what each choice of `unfreeze` trains", List("", Text())),
    },
    "embed": {
        "run": RUNS,
        "splits": List("splits of the data", SPLIT, null=True, example=["val"]),
        **WEIGHTS,
        "tta": Choice("how many views of an image are averaged", ("none", "flip")),
        "augmented": count("of train, each augmented as in training; 0: none", low=0, unit="copies"),
        "overwrite": Flag("also what is complete"),
        "accept_changes": Flag("although the files are not those that the run was trained on"),
        "out": Path("a file for the vectors of data.base as the run's adaptor maps them", null=True,
                    example="small.npy"),
        "encoder": Path("a model of sentence-transformers; out is a copy that ends with the adaptor",
                        null=True, example="all-MiniLM-L6-v2"),
        "side": Choice("whose map of an adaptor with two is applied", ("documents", "queries")),
        "dim": Whole("the first features that are written there", low=1, null=True, unit="dims"),
        "seed": seed("of the data set, where data= is given"),
        **STORED_RUN,
    },
    "evaluate": {
        "run": replace(RUNS, null=True),
        "embeddings": Path("a file of queries", null=True, example="queries.npz"),
        "queries": List("splits to evaluate", SPLIT, null=True, example=["val"]),
        "database": Path("a split to search in, or with embeddings= a file", null=True, example="train"),
        "train": Path("the file that reductions are fitted on", null=True, example="train.npz"),
        "names.method": Label("how rows call the method", example="external"),
        "names.model": Label("how rows call the model", null=True, example="MiniLM"),
        "names.dataset": Name("how rows call the data set", null=True),
        "names.split": Name("how rows call the queries", without="@", example="test"),
        "names.seed": seed("that of the model's training", null=True),
        "names.dims": List("the dims that were trained", DIMS, null=True, example=[8, 16, 32]),
        "target": TARGET,
        "uri": URI,
        "collection": COLLECTION,
        "variant": Name("which embeddings of a run", empty=True, example="flip"),
        "dims": List("the dims to evaluate", DIMS, null=True, example=[8, 16, 32]),
        "quiet": Flag("a line for each file of rows alone"),
        **ANY_COMMAND,
    },
    "generate": {
        "run": RUNS,
        "prompt": Text("where the text begins", example='"def read("'),
        "dim": Whole("how many features choose the tokens", low=1, null=True, unit="dims"),
        "adaptive": share("go on to larger dims while the confidence is at most this", null=True),
        "tokens": count("tokens to generate", high=1_000_000, unit="tokens"),
        "temperature": Number("0: always the likeliest token", low=0, example=0.8),
        "seed": seed(),
        **STORED_RUN,
    },
    "export": {
        "run": replace(RUNS, null=True),
        "format": Choice("what is written", ("hub", "timm", "onnx", "torch_export", "safetensors")),
        "dim": Either(
            "a nested dim, or several with a file each", (DIMS, List("", DIMS)), null=True, example=64
        ),
        "output": Choice("what a file gives", ("embeddings", "logits"), null=True),
        "encoder": Path("a model that sentence-transformers has saved, to put an adaptor behind", null=True,
                        example="all-MiniLM-L6-v2"),
        "int8": Flag("of format=onnx also files in 8 bits"),
        "calibration": count("by which their ranges are chosen", high=1_000_000, unit="images"),
        "out": Path("the folder", null=True, example="outputs/exports/my_run"),
        **WEIGHTS,
        "license": Text("of the weights, as hubs call it", null=True, pattern=r"[\w.+-]+", example="mit"),
        "overwrite": Flag("replace another export in the folder"),
        "push": Flag("upload to the Hugging Face hub"),
        "repo": Text(
            "the repository there", null=True, pattern=r"[\w.-]+(/[\w.-]+)?", called="<owner>/<name>",
            example="me/my-model",
        ),
        "private": Flag("a new repository is"),
        "target": TARGET,
        "embeddings": Path("a file of vectors, in place of run=", null=True, example="base.npy"),
        "split": Text("of the run's embeddings", null=True, pattern=r"[^@]+", example="val"),
        "payload": Path("a table with a row for each vector", null=True, example="titles.csv"),
        "uri": URI,
        "collection": COLLECTION,
        "prefix": Whole("the first dims, by which shortlists are found", low=1, null=True, unit="dims"),
        "prefix_index": Choice("over the prefixes", ("exact", "hnsw", "ivf"), null=True),
        "similarity": SIMILARITY,
        "half": Flag("vectors are stored as float16"),
        "binary": Flag("of target=pgvector the index has a bit for each dim"),
        **STORED_RUN,
    },
    "serve": {
        "run": RUNS,
        "index": Path("the folder of an index to search", null=True, example="digits-index"),
        "split": Name("of whose embeddings that folder is built", null=True, without="@", example="train"),
        "recall": Number("that the index which is built keeps", above=0, below=1, null=True, example=0.95),
        "cascade": Path("the folder of an AdaptiveClassifier", null=True, example="digits-cascade"),
        **WEIGHTS,
        "device": Text(
            "where the model computes", pattern=r"cpu|cuda(:\d+)?", called="cpu, cuda or cuda:<number>",
            example="cuda",
        ),
        "threads": count("of torch on a CPU", high=1024, unit="threads", null=True),
        "host": Text("the address that is listened on", example="127.0.0.1"),
        "port": Whole("0: any that is free", low=0, high=65535),
        "api_key": Text(
            "an environment variable with the key that requests must send", null=True,
            pattern=r"[A-Za-z_]\w*", called="the name of an environment variable", example="MRL_KEY",
        ),
        "batch": count("computed at once", high=65536, unit="inputs"),
        "wait": Number("that the first of a batch waits for others", low=0, high=1000, unit="milliseconds"),
        "queue": count("here at once", high=1_000_000, unit="inputs"),
        "connections": count("open at once", high=100_000, unit="connections"),
        "inputs": count("in a request", high=100_000, unit="inputs"),
        "request_bytes": count("of a request", low=1000, high=10**9, unit="bytes"),
        "queue_bytes": count("of requests here at once", low=1000, high=10**12, unit="bytes"),
        "request_seconds": Number("until a request has arrived", above=0, high=86400, unit="seconds"),
        "pixels": count("of a picture", high=10**9, unit="pixels"),
        "request_pixels": count("of all pictures of a request", high=10**12, unit="pixels"),
        "characters": count("of a text", high=10**8, unit="characters"),
        "results": count("in an answer, and candidates at a stage", high=10**7, unit="neighbours"),
        **STORED_RUN,
    },
    "report": {
        "rows": List("glob patterns of result files", Path(), example=["results/**/*.csv"]),
        "out": Path("the report's folder", example="outputs/report"),
        "figures": List("forms of their files", Choice("", ("png", "svg", "pdf")), least=0, example=["png"]),
        "open": Flag("the page in a browser, when it is written"),
        "counterparts.*.dataset": Either("the paper's data sets beside ours", (Text(), List("", Text()))),
        "counterparts.*.splits": Map("how the paper calls our splits", Text()),
        "counterparts.*.part_of": Text("the data set whose part this one is"),
        **ANY_COMMAND,
    },
}  # fmt: skip

PERTURBATION = {
    "rotation": Number("degrees, both ways", low=0, high=180, unit="degrees"),
    "scale": Number("factor 1 +- scale", low=0, below=1),
    "shear": Number("of x by y, both ways", low=0, high=10),
    "shift": Number("both ways", low=0, high=1000, unit="pixels"),
    "blur": Number("standard deviation", low=0, high=1000, unit="pixels"),
    "contrast": share("the least share of the grey range between ink and paper"),
    "background": share("amplitude of a smooth pattern"),
    "noise": share("standard deviation of pixels"),
    "occlusion": Number("side of a grey square", low=0, high=1000, unit="pixels"),
}

CHECKPOINT: Options = {
    "filename": Text("without .ckpt; {epoch} and {step} are filled in", example="best"),
    "enable_version_counter": Flag("number files of one name"),
    "auto_insert_metric_name": Flag("write the names of metrics into a file's name"),
    "save_top_k": Whole("how many are kept; -1: all", low=-1, unit="checkpoints"),
}
MONITOR: Options = {
    "monitor": Text("a metric, at a dim or, without one, at the largest", example="val/top1@8"),
    "mode": Choice("which values are better", ("max", "min")),
}
CALLBACKS = (
    *("best", "every_epochs", "every_minutes", "early_stopping", "lr_monitor", "device_stats", "ema"),
    *("weight_mean", "throughput", "rich_progress"),
)
BUFFERS = Flag("average the statistics of BatchNorm too")

GROUPS: dict[str, Options] = {
    "data": {
        "name": Name("how runs and tables call the data set"),
        "root": Path("where the files lie", null=True, example="/path/to/data"),
        "loader": Choice("what reads the prepared files", ("auto", "ffcv", "torch")),
        "batch_size": count("samples of one process in a step", unit="samples"),
        "workers": count("that read; of FFCV, threads", low=0, high=WORKERS, null=True, unit="processes"),
        "cache": replace(CACHE, null=False),
        "size": count("side of the images", high=16_384, null=True, unit="pixels"),
        "resolution.": OR_NULL,
        "resolution.start": count("side of the images at first", high=16_384, unit="pixels"),
        "resolution.end": count("side of the images in the end", high=16_384, unit="pixels"),
        "resolution.start_epoch": count("before the side begins to grow", low=0, unit="epochs"),
        "resolution.end_epoch": count(
            "after which the side is the last; null: the last one", low=0, null=True, unit="epochs"
        ),
        "resolution.step": count("sides are multiples of it", unit="pixels"),
        "augment.shift": count("translate by up to as many", low=0, high=16_384, unit="pixels"),
        "augment.crop": List(
            "area share of a random crop: least and most", Number(above=0, high=1), count=2, null=True,
            example=[0.25, 1.0],
        ),
        "augment.flip": Flag("mirror half of the images"),
        "augment.center": Number("share of the shorter side that validation reads", above=0, high=1),
        "augment.mean": List("of each channel", Number(low=0, high=1), example=[0.5]),
        "augment.std": List("of each channel", Number(above=0), example=[0.5]),
        "storage.*.mode": Choice("how images are kept", ("raw", "jpg", "proportion", "smart")),
        "storage.*.max_size": count("longer sides are reduced to it", high=65_535, null=True, unit="pixels"),
        "storage.*.jpeg_quality": count("of JPEG", high=100),
        "storage.*.jpeg_share": share("of the images kept as JPEG, with mode=proportion"),
        "balance": Number("0: classes as they are; 1: all alike", low=0, high=1, null=True, example=1),
        "betons": Map("ready .beton files by split", Path(), Name(without="@")),
        "seed": seed(),
        "tokenizer": Path("a tokenizer.json", null=True, example="tokenizer.json"),
        "vocabulary": count("tokens that the model knows", high=10_000_000, unit="tokens"),
        "length": count("tokens of a sequence", high=10_000_000, unit="tokens"),
        "masked": Number("share of tokens to predict", above=0, below=1, null=True, example=0.15),
        "eval_tokens": count("of a split, for validation and embeddings", null=True, unit="tokens"),
        "base": Path("a file or folder of vectors", example="base.npy"),
        "val": Path("another, to validate on", null=True, example="val.npy"),
        "labels": Path("a file of labels, or the base where it holds them", null=True, example="labels.npy"),
        "val_labels": Path("a file of labels of val", null=True, example="val_labels.npy"),
        "pairs": Either(
            "two files of queries and positives, row by row, or one with both",
            (Path(), List("", Path(), count=2, single=False)), null=True,
            example="[queries.npy,positives.npy]",
        ),
        "queries": Path("vectors that are searched in the base", null=True, example="queries.npy"),
        "share": Number("of the vectors, held out", above=0, below=1, example=0.1),
        "neighbours": count("nearest others that come with a row; 0: none", low=0, unit="vectors"),
        "similarity": SIMILARITY,
        "anchors": count("of an epoch whose neighbours are searched", unit="vectors"),
        "source.name": Name("how the cache calls the data set"),
        "source.root": Path("where the files lie", null=True),
        "source.val_share": Number("of the samples, for validation", above=0, below=1, example=0.1),
        "source.seed": seed(),
        "source.scale": count("enlarges each pixel", high=256),
        "source.size": count("side of the images", high=16_384, null=True, unit="pixels"),
        "source.classes": Path("a file or folder that names the classes", null=True),
        "source.betons": Map("ready .beton files by split", Path()),
        "source.sequence": Path("the file that names images in their order"),
        "source.mapping": Path("a file {folder: class}", null=True),
        "source.split": Name("what the images are called, or how validation is drawn", without="@"),
        "source.per_class": Map("how many images of a class each split has", count(""), SPLIT),
        "source.pattern": Text("which files, as a glob", example='"**/*"'),
        "source.first": count("the first character, by how common it is", low=0),
        "source.num_classes": count("the most frequent ones, from `first` on", unit="characters"),
        "source.unseen": count("that training never sees", low=0, unit="characters"),
        "source.unseen_splits": List("splits of these", SPLIT, least=0),
        "source.meanings": count("of a character, at most", unit="meanings"),
        "source.templates": List("of captions; {} is the meaning", Text()),
        "source.splits": Map("groups of font families that draw each split", List("", Text()), SPLIT),
        **{f"source.perturbation.*.{key}": option for key, option in PERTURBATION.items()},
    },
    "model": {
        "name": Name("how tables call it"),
        "arch": Text("the name that timm (of text: transformers) knows it by", example="resnet18"),
        "module": Map("a module of your own: its _target_ and arguments"),
        "pretrained": Either(
            "its weights: true, a timm tag, a file, or local-dir:<folder>", (Flag(), Path()), null=True,
            example=True,
        ),
        "pretrained_by_order": Flag("a file's tensors module after module, whatever their names"),
        "blurpool": Flag("low-pass before strided convolutions"),
        "options": Map("further arguments of the model", null=True),
        "kind": Choice(
            "of an adaptor; null: linear with data.pairs, else orthogonal",
            ("orthogonal", "linear", "mlp"), null=True,
        ),
        "two_maps": Flag("of a linear adaptor: queries have a matrix of their own"),
        "hidden": count("of an adaptor's MLP; null: as many as dims", null=True, unit="neurons"),
        "width": count("dims of the features", high=1_000_000, unit="dims"),
        "layers": count("of the transformer", high=10_000, unit="layers"),
        "attention_heads": count("of each layer", high=10_000, unit="heads"),
        "positions": count("the longest sequence", null=True, unit="tokens"),
        "text.type": Text("model type of transformers", example="bert"),
        "text.options": Map("of its configuration", null=True),
    },
    "loss": {
        "name": Name("how tables call the method"),
        "dim": Whole("of the representation", low=1, null=True, unit="dims"),
        "dims": Either(
            "the nested dims", (List("", DIMS, ascending=True), Node()), null=True, example=[8, 16, 32]
        ),
        "weights": Either(
            "c_m of each dim, in their order or by dim",
            (List("", Number(above=0)), Map("", Number(above=0), DIMS)), null=True, example="{8: 2}",
        ),
        "weights_rise": share("of training in which the weight of m dims rises to c_m"),
        "class_weights": List("of each class", Number(low=0), null=True, least=2, example=[1, 2]),
        "label_smoothing": Number("share given to all classes alike", low=0, below=1, example=0.1),
        "nested": Flag("several dims at once; false: a separate model for each"),
        "tied": Flag("one classifier for all dims; null: as the backbone has it", null=True),
        "recipe": Choice("standardized features, few dims that learn faster; or as printed", RECIPES),
        "temperature": Number("where it begins", above=0, example=0.07),
        "similarity": SIMILARITY,
        "pair_share": share("weight of a query's own document beside what whole vectors say"),
        "cache_chunk": count("samples embedded at a time", null=True, unit="samples"),
        "mode": Choice("which widths run", ("switchable", "universal")),
        "widths": List(
            "shares of the channels, the last 1.0", Number(above=0, high=1), least=2, ascending=True,
            example=[0.25, 0.5, 0.75, 1.0],
        ),
    },
    "optim": {
        "name": Label("how it is called"),
        "lr": Number("peak learning rate, for lr_images images per step", above=0, example=0.1),
        "lr_images": Number("images per step that lr is given for", above=0, unit="images", example=256),
        "momentum": Number("of SGD; beta_1 of AdamW", low=0, below=1, example=0.9),
        "nesterov": Flag("Nesterov momentum, of SGD"),
        "weight_decay": Number("of all but normalization and biases", low=0, example=1e-4),
        "warmup_epochs": Number("passes in which the rate rises", low=0, unit="epochs", example=1.0),
        "opt": Text("an optimizer of timm", example="adamw"),
        "layer_decay": Number("share of the next layer's rate", above=0, high=1, null=True, example=0.75),
        "options": Map("further arguments of the optimizer"),
        "schedule": Text("of the rate, in timm", example="cosine"),
        "min_lr": Number("where the rate ends", low=0, example=0.0),
        "schedule_options": Map("further arguments of timm's schedule"),
    },
    "trainer": {
        "name": Label("how it is called"),
        "accelerator": Choice("where it computes", ("cpu", "gpu", "auto", "cuda", "mps", "tpu")),
        "devices": Either(
            "processes, each with a device of its own; -1 or auto: all there are",
            (
                Whole(low=1),
                Choice("", ("auto", -1, "-1")),
                List("", Whole(low=0), single=False),
                Text(pattern=r"\d+(,\d*)+", called='"0,1": the numbers of GPUs'),
            ),
        ),
        "num_nodes": count("that train together", high=100_000, unit="machines"),
        "strategy": Either("how processes share the work", (Text(), Node()), example="ddp"),
        "precision": Choice(
            "of numbers",
            (
                *("auto", "32-true", "16-mixed", "bf16-mixed", "64-true", "16-true", "bf16-true"),
                *("transformer-engine", "transformer-engine-float16", 16, 32, 64, "16", "32", "64", "bf16"),
            ),
        ),
        "accumulate_grad_batches": count("batches whose gradients are summed into a step", unit="batches"),
        "gradient_clip_val": Number("largest norm of the gradient", low=0, null=True, example=1.0),
        "sync_batchnorm": Flag("BatchNorm over all processes"),
        "limit_train_batches": Batches("of an epoch", 1, example=1.0),
        "limit_val_batches": Batches("of a validation; 0: none", example=1.0),
        "log_every_n_steps": count("between two rows of metrics", unit="steps"),
        "checkpoint_minutes": Number(
            "between two checkpoints inside an epoch", low=0, endless=True, unit="minutes", example=5.0
        ),
        "progress": Flag("a progress bar, or lines where there is no terminal"),
        "timeout_minutes": Number("how long processes wait for one", above=0, unit="minutes", example=30.0),
        "max_epochs": Either(
            "passes over the data; -1: until max_steps", (Choice("", (-1,)), EPOCHS), null=True, example=5
        ),
        "min_epochs": count("that are trained in any case", null=True, unit="epochs"),
        "max_steps": Either("at most so many", (Choice("", (-1,)), STEPS), null=True, example=1000),
        "min_steps": count("that are trained in any case", null=True, unit="steps"),
        "max_time": Either(
            "after which training ends", TIME, null=True, example='"00:01:30:00"',
        ),
        "fast_dev_run": Either("a trial of so many batches", (Flag(), Whole(low=0)), null=True, example=True),
        "overfit_batches": Batches("the same ones again and again", null=True, example=1),
        "val_check_interval": Either(
            "between two validations", (Batches("", 1), *TIME), null=True, example=1.0,
        ),
        "check_val_every_n_epoch": count("between two validations", null=True, unit="epochs"),
        "num_sanity_val_steps": Either(
            "of validation, before training", (Choice("", (-1,)), Whole(low=0)), null=True, example=2
        ),
        "limit_test_batches": Batches("of a test", null=True, example=1.0),
        "limit_predict_batches": Batches("of a prediction", null=True, example=1.0),
        "gradient_clip_algorithm": Choice("what gradient_clip_val limits", ("norm", "value"), null=True),
        "deterministic": Either(
            "operations that always give the same", (Flag(), Choice("", ("warn",))), null=True, example=True
        ),
        "benchmark": Flag("let cuDNN try its kernels", null=True),
        "detect_anomaly": Flag("name the operation that first gives NaN", null=True),
        "profiler": Either(
            "where time goes", (Choice("", ("simple", "advanced", "pytorch", "xla")), Node()), null=True,
            example="simple",
        ),
        "plugins": Either(
            "of Lightning", (List("", Either("", (Text(), Node())), least=0), Node()), null=True,
            example=["slurm"],
        ),
        "inference_mode": Flag("validate without autograd's bookkeeping", null=True),
        "barebones": Flag("measure Lightning's own cost", null=True),
        "reload_dataloaders_every_n_epochs": count("between new loaders", low=0, null=True, unit="epochs"),
        "use_distributed_sampler": Flag("the loaders need none: they shard by themselves", null=True),
        "enable_checkpointing": Flag("keep what was trained", null=True),
        "enable_progress_bar": Flag("Lightning's own bar", null=True),
        "enable_model_summary": Flag("a table of the layers", null=True),
        "enable_autolog_hparams": Flag("tell loggers the module's arguments", null=True),
        "default_root_dir": Path("where Lightning writes what has no other place", null=True),
        "model_registry": Text("of litmodels", null=True),
    },
    "batch_augment": {
        "mixup": Number("alpha of the mixed share; 0: off", low=0, example=0.8),
        "cutmix": Number("alpha of the pasted share; 0: off", low=0, example=1.0),
        "randaugment": Whole("magnitude of two random operations", low=1, high=30, null=True, unit="steps"),
        "erasing": share("of the images that lose a rectangle"),
    },
    "callbacks": {
        **{f"{name}.": OR_NULL for name in CALLBACKS},
        **{f"best.{key}": option for key, option in (CHECKPOINT | MONITOR).items()},
        **{f"every_epochs.{key}": option for key, option in CHECKPOINT.items()},
        "every_epochs.every_n_epochs": count("between two checkpoints", unit="epochs"),
        **{f"every_minutes.{key}": option for key, option in CHECKPOINT.items()},
        "every_minutes.train_time_interval.minutes": Number("between", above=0, unit="minutes", example=9),
        **{f"early_stopping.{key}": option for key, option in MONITOR.items()},
        "early_stopping.patience": count("without an improvement", unit="validations"),
        "early_stopping.min_delta": Number("the least improvement", low=0, example=0.001),
        "lr_monitor.logging_interval": Choice("how often", ("step", "epoch"), null=True),
        "lr_monitor.log_momentum": Flag("the momentum too"),
        "lr_monitor.log_weight_decay": Flag("the weight decay too"),
        "device_stats.cpu_stats": Flag("of the CPU too", null=True),
        "ema.decay": share("of the average that stays in a step"),
        "ema.use_buffers": BUFFERS,
        "ema.update_every_n_steps": count("between two updates", unit="steps"),
        "ema.update_starting_at_step": count("of the first update", low=0, null=True, unit="steps"),
        "ema.update_starting_at_epoch": count("of the first update", low=0, null=True, unit="epochs"),
        "weight_mean.use_buffers": BUFFERS,
        "throughput.window_size": count("that a value is the mean of", low=2, unit="batches"),
    },
    "logger": {
        "csv": Map("metrics.csv, which is always written"),
        "wandb.": OR_NULL,
        "tensorboard.": OR_NULL,
        "wandb.project": Text("of W&B", null=True, example="mrl-experiments"),
        "wandb.entity": Text("of W&B", null=True),
        "wandb.mode": Choice(
            "auto: online where a key is configured",
            ("auto", "online", "offline", "shared", "disabled"),
        ),
        "tensorboard.save_dir": Path("null: the run's folder", null=True, example="logs"),
        "tensorboard.name": Name("the folder inside save_dir", empty=True, example="tensorboard"),
        "tensorboard.version": Name("a folder inside that", empty=True, null=True),
    },
    "reduction": {
        "draws": count("with other random numbers", high=100_000, unit="repetitions"),
        "file": Path("of an adaptor", null=True, example="outputs/runs/my_run/adaptor.safetensors"),
    },
}  # fmt: skip

FIRST_K = List("neighbours that count", Whole(low=1), example=[1, 5, 10])
K = count("that count", unit="neighbours")
QUERIES = count("queries, drawn where there are more", unit="queries")
TIMED = count("queries of the timed batch", unit="queries")
PRESENT = Flag("only classes that the split has can be answered")
INDEXES = {
    "indexes.*.codes": Text("in the language of faiss.index_factory", example="Flat"),
    "indexes.*.coarse_dim": Whole("the prefix clustered into lists", low=1, null=True, unit="dims"),
    "indexes.*.effort": Text("search parameters of FAISS", empty=True, example='"nprobe=16"'),
}
POLICIES = {
    "policies.*.drops": List("accuracy that may be lost", Number(low=0, below=1), example=[0.01]),
    "policies.*.delta": Number("probability that a promise fails", above=0, below=1, example=0.1),
    "policies.*.thresholds": List("confidences", Number(low=0, high=1), example=[0.5]),
    "policies.*.seed": seed(),
}

# By the function that an evaluation calls, since two may mean different things by one name.
EVALUATIONS: dict[str, Options] = {
    "knn": {"k": FIRST_K, "similarity": SIMILARITY},
    "retrieval": {"k": FIRST_K, "similarity": SIMILARITY},
    "cross_modal": {"k": FIRST_K},
    "agreement": {
        "k": FIRST_K,
        "ranked": count("nearest by the full vector whose order is compared", low=2, unit="neighbours"),
        "max_queries": QUERIES,
        "similarity": SIMILARITY,
    },
    "ir": {
        "qrels": Path("judgments: query, document, grade in each line", null=True, example="qrels/test.tsv"),
        "first": count("that nDCG and MRR look at", unit="ranks"),
        "k": FIRST_K,
        "resamples": count("of the queries, for intervals", low=2, high=1_000_000, unit="repetitions"),
        "seed": seed(),
        "similarity": SIMILARITY,
    },
    "trained_head": {"present_classes_only": PRESENT},
    "probe": {
        "seed": seed(),
        "solver.iterations": count("of L-BFGS", high=1_000_000, unit="iterations"),
        "solver.epochs": count("passes over the features", high=1_000_000, unit="epochs"),
        "solver.batch_size": count("features in a step", unit="samples"),
        "solver.lr": Number("learning rate", above=0, example=0.1),
        "solver.l2": Number("weight of the squared norm", low=0, example=1e-6),
    },
    "few_shot": {
        "shots": List("examples of each class", Whole(low=1), example=[1, 5]),
        "ways": count("drawn in each repetition", low=2, null=True, unit="classes"),
        "draws": count("with other examples", low=2, high=100_000, unit="repetitions"),
        "seed": seed(),
    },
    "examples": {
        "columns": count("that stand side by side", high=12, unit="dims"),
        "shown": count("drawn from all", high=100, unit="queries"),
        "k": count("of each query", high=20, unit="neighbours"),
        "shortlists": List(
            "candidates that a funnel keeps", Whole(low=1), descending=True, least=0, example=[200, 50]
        ),
        "confusions": count("the commonest of each dim", low=0, high=100, unit="pairs of classes"),
        "seed": seed(),
    },
    "stream": {
        "imbalance": Number("samples of the commonest class for one of the rarest", low=1, null=True),
        "head": count("classes with more samples are the head", low=0, unit="samples"),
        "seed": seed(),
    },
    "superclass": {
        "mapping": Path("a file {class: superclass}, or imagenet", null=True),
        "superclasses": count("the largest; all others are the reject", unit="superclasses"),
        "within": List("superclasses with rows of their own", Text(), null=True),
    },
    "trends": {
        "quantiles": List("over classes", Number(low=0, high=100, unit="percent"), example=[5, 50, 95])
    },
    "adaptive_classification": {
        "splits": count("random ones, into fitted and measured samples", high=100_000, unit="splits"),
        "fit_share": Number("of the samples that thresholds are fitted on", above=0, below=1, example=0.2),
        "present_classes_only": PRESENT,
        **POLICIES,
    },
    "adaptive_decoding": {
        "folds": count("of the text, each measured once", low=2, high=10_000, unit="parts"),
        "timed": count("tokens of each speed measurement", unit="tokens"),
        **POLICIES,
    },
    "adaptive_retrieval": {
        "k": K,
        "shortlist": count("candidates that are re-ranked", unit="candidates"),
        "lengths": List("further lengths of the shortlist", Whole(low=1), least=0, example=[100, 200]),
        "lengths_dim": Whole("that these are measured at", low=1, unit="dims"),
        "max_queries": QUERIES,
        "timed": TIMED,
        **INDEXES,
    },
    "served": {
        "engine.target": TARGET,
        "engine.uri": URI,
        "engine.collection": COLLECTION,
        "engine.root": ROOT,
        "name": Text("how rows call the engine", null=True),
        "k": K,
        "shortlists": List("candidates that whole vectors rank", Whole(low=1), example=[100, 200]),
        "codes": Text("of the AdaptiveIndex, as faiss.index_factory has it", null=True, example="Flat"),
        "effort": Text("its search parameters of FAISS", empty=True, example='"nprobe=16"'),
        "max_queries": QUERIES,
        "timed": TIMED,
    },
    "auto_retrieval": {
        "k": K,
        "max_loss": share("mAP or recall that new queries may lose, with 95 % confidence", null=True),
        "max_latency": Number("of a query", above=0, null=True, unit="milliseconds", example=1.0),
        "max_queries": QUERIES,
    },
    "funnel": {
        "k": K,
        "cascades": List(
            "lengths of the shortlists", List("", Whole(low=1), descending=True, single=False),
            example=[[200, 100, 50]],
        ),
        "max_queries": QUERIES,
        "timed": TIMED,
        **INDEXES,
    },
}  # fmt: skip
