"""Tasks of the real lm-evaluation-harness become data sets that say of a model what the harness itself says of it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

from orchestrator.harness import HarnessError, take
from tasks import evaluation
from tasks.contract import Dataset, Work
from tasks.examples.data import read

DOCUMENTS = [
    {"q": "The capital of France is", "a": ["Paris", "Rome", "a town called Lyon"], "right": 0},
    {"q": "Two and two is ", "a": ["4", "5"], "right": 0},
    {"q": "Rivers carry", "a": ["water", "stones and water"], "right": 1},
    {"q": "Naïve ☃ means", "a": ["a", "b", "c", "d"], "right": 3},
    {"q": "A", "a": [" b", "\nc"], "right": 1},
]
QUIZ = {
    "output_type": "multiple_choice",
    "doc_to_text": "Question: {{q}}\nAnswer:",
    "doc_to_choice": "a",
    "doc_to_target": "right",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    "metadata": {"version": 2.0},
}


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """name=(changes of the quiz, documents) -> a folder of tasks; the network is not asked."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    folder = tmp_path / "tasks"
    folder.mkdir()

    def write(**wanted):
        for name, (changes, documents) in wanted.items():
            data = folder / f"{name}.jsonl"
            data.write_text("".join(json.dumps(one) + "\n" for one in documents))
            files = {"data_files": {"test": str(data)}, "cache_dir": str(tmp_path / "cache")}
            task = {"task": name, "dataset_path": "json", "dataset_kwargs": files, "test_split": "test"}
            (folder / f"{name}.yaml").write_text(yaml.safe_dump({**task, **QUIZ, **changes}))
        return folder

    return write


def written(rows, path):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_questions_go_over_letter_for_letter(tasks, tmp_path):
    [taken] = take(["quiz"], folder=tasks(quiz=({}, DOCUMENTS)))
    assert (taken.task, taken.kind, taken.left_out) == ("quiz", "choices", {})
    assert taken.not_measured == ("acc_norm",)
    assert [row["text"] for row in taken.rows] == [f"Question: {one['q']}\nAnswer:" for one in DOCUMENTS]
    assert [row["choices"] for row in taken.rows] == [[f" {a}" for a in one["a"]] for one in DOCUMENTS]
    assert [row["label"] for row in taken.rows] == [one["right"] for one in DOCUMENTS]
    assert {(row["task"], row["split"]) for row in taken.rows} == {("quiz", "test")}
    assert {row["source"].split(" ", 2)[2] for row in taken.rows} == {"quiz 2.0 0-shot"}
    file = written(taken.rows, tmp_path / "quiz.jsonl")
    examples = read(Dataset(path=file, kind="choices", split="test", slices=("task",))).members
    assert [example.label for example in examples] == [one["right"] for one in DOCUMENTS]


@pytest.mark.parametrize("shots", [0, 2])
def test_a_model_answers_as_the_harness_says(tasks, tmp_path, tiny_model, shots):
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    shown = {"fewshot_split": "test"}
    folder = tasks(quiz=(shown, DOCUMENTS), sums=(shown, DOCUMENTS[:3]))
    model = tiny_model(tmp_path / "model", "LlamaForCausalLM")
    theirs = lm_eval.simple_evaluate(
        model=HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=1),
        tasks=["quiz", "sums"], num_fewshot=shots, task_manager=TaskManager(include_path=str(folder), include_defaults=False), bootstrap_iters=0,
        fewshot_random_seed=7,
    )  # fmt: skip
    taken = take(["quiz", "sums"], folder=folder, shots=shots, seed=7)
    file = written([row for each in taken for row in each.rows], tmp_path / "all.jsonl")
    data = Dataset(path=file, kind="choices", split="test", slices=("task",))
    ours = evaluation.run(Work(model=model, params={}, datasets={"evaluation": data})).tables["outcomes"]
    for name in ("quiz", "sums"):
        rows = [row for row in ours if row["slices"] == {"task": name}]
        samples = sorted(theirs["samples"][name], key=lambda sample: sample["doc_id"])
        assert [float(row["correct"]) for row in rows] == [sample["acc"] for sample in samples]
        scores = [[answer[0][0] for answer in sample["resps"]] for sample in samples]
        assert [row["prediction"] for row in rows] == [score.index(max(score)) for score in scores]
        mean = sum(row["correct"] for row in rows) / len(rows)
        assert mean == pytest.approx(theirs["results"][name]["acc,none"])


def test_prose_becomes_a_data_set_of_texts(tasks):
    prose = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_choice": None,
        "doc_to_target": "{{text}}",
    }
    prose |= {"metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}]}
    folder = tasks(prose=(prose, [{"text": "One."}, {"text": " "}, {"text": "Two."}]))
    [taken] = take(["prose"], folder=folder)
    assert (taken.kind, taken.left_out, taken.not_measured) == ("text", {"it is empty": 1}, ())
    assert [row["text"] for row in taken.rows] == ["One.", "Two."]


def test_the_first_so_many_are_taken_and_a_group_gives_all_its_tasks(tasks):
    folder = tasks(one=({}, DOCUMENTS), two=({}, DOCUMENTS))
    (folder / "both.yaml").write_text(yaml.safe_dump({"group": "both", "task": ["one", "two"]}))
    taken = take(["both"], folder=folder, limit=2)
    assert [(each.task, len(each.rows)) for each in taken] == [("one", 2), ("two", 2)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"a": ["same", "same"], "right": 0}, "its answers are not two or more different ones"),
        ({"a": ["lonely"], "right": 0}, "its answers are not two or more different ones"),
        ({"right": 7}, "not exactly one answer is right"),
        ({"right": -1}, "not exactly one answer is right"),
    ],
)
def test_what_is_no_question_is_left_out_and_counted(tasks, change, reason):
    [taken] = take(["quiz"], folder=tasks(quiz=({}, [*DOCUMENTS, DOCUMENTS[0] | change])))
    assert len(taken.rows) == len(DOCUMENTS)
    assert taken.left_out == {reason: 1}


def test_answers_with_texts_of_their_own_are_left_out(tasks):
    asked = {
        "doc_to_text": "right",
        "doc_to_choice": "{{['Ann ' + q, 'Bob ' + q]}}",
        "doc_to_target": "{{q}}",
    }
    [taken] = take(["quiz"], folder=tasks(quiz=(asked, DOCUMENTS[2:4])))
    assert taken.rows == []
    assert taken.left_out == {"each answer has a text of its own before it": 2}


def test_what_cannot_become_a_data_set_is_refused(tasks, tmp_path):
    writing = {
        "output_type": "generate_until",
        "doc_to_target": "{{q}}",
        "metric_list": [{"metric": "exact_match"}],
    }
    prose = {
        "output_type": "loglikelihood_rolling",
        "doc_to_target": "{{q}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }
    lost = {"dataset_kwargs": {"data_files": {"test": str(tmp_path / "nowhere.jsonl")}}}
    broken = {"doc_to_text": "{{ q.nothing.more }}"}
    folder = tasks(
        quiz=({}, DOCUMENTS),
        writing=(writing, DOCUMENTS),
        prose=(prose, DOCUMENTS),
        lost=(lost, DOCUMENTS),
        broken=(broken, DOCUMENTS),
    )
    with pytest.raises(HarnessError, match=r"not writing \(generate_until\)"):
        take(["quiz", "writing"], folder=folder)
    with pytest.raises(HarnessError, match="data sets of their own: .*quiz.*prose"):
        take(["quiz", "prose"], folder=folder)
    with pytest.raises(HarnessError, match="tasks has no task, group or tag 'quizz'"):
        take(["quizz"], folder=folder)
    with pytest.raises(HarnessError, match=r"lost cannot be loaded: .*nowhere\.jsonl"):
        take(["lost"], folder=folder)
    with pytest.raises(HarnessError, match="broken cannot be .*: UndefinedError"):
        take(["broken"], folder=folder)
    with pytest.raises(HarnessError, match="is no folder of tasks"):
        take(["quiz"], folder=tmp_path / "nothing")


def test_the_command_writes_a_file_once_and_says_what_it_left_out(tasks, tmp_path):
    folder = tasks(quiz=({}, [*DOCUMENTS, DOCUMENTS[0] | {"right": 9}]))
    words = [
        sys.executable,
        "-m",
        "orchestrator.cli",
        "questions",
        "quiz",
        "--tasks",
        str(folder),
        "--to",
        "quiz.jsonl",
    ]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stderr.split())
    assert "quiz: 5 examples 1 left out: not exactly one answer is right not measured: acc_norm" in told
    assert "{kind: choices, path: quiz.jsonl, slice_by: task}, split test, metric accuracy" in told
    before = (tmp_path / "quiz.jsonl").read_bytes()
    assert len(before.splitlines()) == len(DOCUMENTS)
    again = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert (again.returncode, "quiz.jsonl exists" in again.stderr) == (2, True)
    assert (tmp_path / "quiz.jsonl").read_bytes() == before


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(HarnessError, match=r"pip install 'prunefleet\[lm-eval\]'"):
        take(["arc_easy"])
