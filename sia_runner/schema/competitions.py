"""MLE-bench's lite competitions are described as far as they fit a table of questions with one answer each.

Columns, files and metrics are those of the package's `competitions/<id>/{prepare,grade}.py` (openai/mle-bench, 1.0.0).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Competition:
    """The columns, files and metric of one competition.

    `verifier` names the metric (docs/tasks.md). Paths are relative to prepared/public, except `answers`: to private.
    """

    verifier: str
    id: str | None  # None: rows have no id and are numbered
    answer: str  # in the training file
    choices: tuple[str, ...] = ()  # log_loss without any: the columns of the sample submission
    grouped: bool = False  # ids like 0013_02
    train: str = "train.csv"  # or a JSON list of records
    test: str | None = "test.csv"  # None: the ids are in the sample submission only
    sample: str = "sample_submission.csv"
    answers: str = "test.csv"
    train_files: str = ""  # a question's file, {id} being its id
    test_files: str = ""
    folder: str = "mlebench"  # below tasks/, with the reference harness and recipes

    @property
    def metric(self) -> str:
        """The name of the metric in reports."""
        return {"choice": "accuracy", "numeric": "accuracy"}.get(self.verifier, self.verifier)


BINARY = ("0", "1")

COMPETITIONS = {
    "aptos2019-blindness-detection": Competition(
        "quadratic_kappa",
        "id_code",
        "diagnosis",
        train_files="train_images/{id}.png",
        test_files="test_images/{id}.png",
    ),
    "detecting-insults-in-social-commentary": Competition(
        "auc", None, "Insult", BINARY, sample="sample_submission_null.csv"
    ),
    "dog-breed-identification": Competition(
        "log_loss",
        "id",
        "breed",
        train="labels.csv",
        test=None,
        train_files="train/{id}.jpg",
        test_files="test/{id}.jpg",
    ),
    "histopathologic-cancer-detection": Competition(
        "auc",
        "id",
        "label",
        BINARY,
        train="train_labels.csv",
        test=None,
        answers="answers.csv",
        train_files="train/{id}.tif",
        test_files="test/{id}.tif",
    ),
    "leaf-classification": Competition("log_loss", "id", "species"),
    "new-york-city-taxi-fare-prediction": Competition("rmse", "key", "fare_amount", train="labels.csv"),
    "random-acts-of-pizza": Competition(
        "auc",
        "request_id",
        "requester_received_pizza",
        BINARY,
        train="train.json",
        test="test.json",
        sample="sampleSubmission.csv",
    ),
    "siim-isic-melanoma-classification": Competition(
        "auc",
        "image_name",
        "target",
        BINARY,
        train_files="jpeg/train/{id}.jpg",
        test_files="jpeg/test/{id}.jpg",
    ),
    "spaceship-titanic": Competition(
        "choice",
        "PassengerId",
        "Transported",
        ("True", "False"),
        grouped=True,
        folder="spaceship_titanic",
    ),
    "spooky-author-identification": Competition("log_loss", "id", "author", ("EAP", "HPL", "MWS")),
    "tabular-playground-series-dec-2021": Competition("numeric", "Id", "Cover_Type"),
    "tabular-playground-series-may-2022": Competition("auc", "id", "target", BINARY),
}

_ARCHIVE = "its questions are files in a zip archive"
_COLUMNS = "its answers are several columns with a metric of their own"
NOT_HERE = {
    "aerial-cactus-identification": _ARCHIVE,
    "denoising-dirty-documents": "an answer is every pixel of a picture",
    "dogs-vs-cats-redux-kernels-edition": _ARCHIVE,
    "jigsaw-toxic-comment-classification-challenge": _COLUMNS,
    "mlsp-2013-birds": "its answers are species of a recording, in files of its own format",
    "nomad2018-predict-transparent-conductors": _COLUMNS,
    "plant-pathology-2020-fgvc7": _COLUMNS,
    "ranzcr-clip-catheter-line-classification": _COLUMNS,
    "text-normalization-challenge-english-language": "its questions are single words of ten million",
    "text-normalization-challenge-russian-language": "its questions are single words of ten million",
    "the-icml-2013-whale-challenge-right-whale-redux": _ARCHIVE,
}


def named(competition: str) -> Competition:
    """Return the competition of that name; raises ValueError with one line if it is not supported."""
    if competition in COMPETITIONS:
        return COMPETITIONS[competition]
    reason = NOT_HERE.get(competition, "no competition of MLE-bench's lite split; make a task of it (docs/own_task.md)")
    raise ValueError(f"{competition}: {reason}; allowed: {', '.join(COMPETITIONS)}")
