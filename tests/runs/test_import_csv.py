"""CSV files as trackers, frameworks, spreadsheets and people write them: small, with the columns of the real ones."""

import pytest

from alexnet_exp import runs
from alexnet_exp.errors import UserError

WANDB_PAGE = """"Name","State","Notes","User","Tags","Created","Runtime","Sweep","lr","model","norm","seed","_runtime",\
"_step","_timestamp","_wandb.runtime","epoch","quant_test_acc","test_acc","val_acc","save_name"
"glowing-sun-1","finished","-","ann","","2024-03-01T10:00:00.000Z","312","","0.01","alexnet","none","1","311.2",\
"977","1709287511.2","311","9","0.7","0.8123","0.8011","ckpt/alexnet_1.pt"
"rosy-moon-2","finished","-","ann","","2024-03-01T10:06:00.000Z","305","","0.01","alexnet","none","2","304.9",\
"977","1709287871.1","304","9","0.71","0.8159","0.8031","ckpt/alexnet_2.pt"
"warm-hill-4","crashed","-","ann","","2024-03-01T10:18:00.000Z","20","","0.01","resnet","none","1","19.2",\
"37","1709288600.2","19","0","","","","ckpt/resnet_1.pt"
"""
WANDB_API = """,summary,config,name
0,"{'_step': 977, '_timestamp': 1709287511.2, 'test_acc': 0.81, 'test_loss': nan, '_wandb': {'runtime': 311}}",\
"{'lr': 0.01, 'model': 'alexnet', 'seed': 1, 'norm': None, 'kernels': [3, 5]}",glowing-sun-1
1,"{'_step': 978, '_timestamp': 1709287911.2, 'test_acc': 0.82, 'test_loss': 0.61, '_wandb': {'runtime': 312}}",\
"{'lr': 0.01, 'model': 'resnet', 'seed': 2, 'norm': 'none', 'kernels': [3, 5]}",rosy-moon-2
"""
MLFLOW_PAGE = """Start Time,Duration,Run ID,Name,Source Type,Source Name,User,Status,batch_size,model,random_state,\
accuracy,rmse
2024-03-01 10:00:00,1.2min,0f3b2c4d5e6f708192a3b4c5d6e7f801,bright-ant-1,LOCAL,train.py,ann,FINISHED,64,a,1,0.81,0.41
2024-03-01 10:02:00,59.1s,1f3b2c4d5e6f708192a3b4c5d6e7f802,bright-ant-2,LOCAL,train.py,ann,FAILED,64,b,2,,
"""
MLFLOW_API = """run_id,experiment_id,status,artifact_uri,start_time,end_time,metrics.val_acc,metrics.elo,params.lr,\
params.norm,params.seed,tags.mlflow.runName,tags.mlflow.user
0f3b2c4d5e6f708192a3b4c5d6e7f801,1,FINISHED,file:///a,2024-03-01 10:00:00.123000+00:00,\
2024-03-01 10:01:12.456000+00:00,0.81,1500.0,0.1,none,1,bright-ant-1,ann
1f3b2c4d5e6f708192a3b4c5d6e7f802,1,FINISHED,file:///b,2024-03-01 10:02:00.123000+00:00,\
2024-03-01 10:03:12.456000+00:00,0.82,1510.0,0.1,lrn,2,bright-ant-2,ann
"""
OPTUNA = """,number,value,datetime_start,datetime_complete,duration,params_lr,params_norm,state
0,0,0.81,2024-03-01 10:00:00.1,2024-03-01 10:01:00.1,0 days 00:01:00,0.1,none,COMPLETE
1,1,0.72,2024-03-01 10:01:00.2,2024-03-01 10:01:30.1,0 days 00:00:30,0.2,lrn,PRUNED
"""
KERAS = """epoch,accuracy,learning_rate,loss,val_accuracy,val_loss
0,0.41,0.001,1.61,0.45,1.52
1,0.52,0.001,1.34,0.49,1.45
2,0.61,0.0005,1.10,0.55,1.31
"""
LIGHTNING = """epoch,lr-Adam,step,test_acc,train_loss,val_acc
,0.001,49,,,
0,,49,,2.1,
0,,99,,,0.41
1,,149,,1.7,
1,,199,,,0.52
2,,200,0.53,,
"""


@pytest.fixture
def read(tmp_path):
    """Reads a file with this content."""

    def _read(content, name="runs.csv", **options):
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return runs.read(file, **options)

    return _read


def test_the_table_of_a_wandb_page(read):
    found = read(WANDB_PAGE)
    assert [run.name for run in found] == ["glowing-sun-1", "rosy-moon-2", "warm-hill-4"]
    assert [run.status for run in found] == ["done", "done", "failed"]
    assert found[0].config == {"lr": 0.01, "model": "alexnet", "norm": "none", "seed": 1}
    assert found[0].metrics == {"test/acc": 0.8123, "val/acc": 0.8011, "quant_test_acc": 0.7}
    assert found[0].facts["_step"] == 977
    assert {"Created", "Runtime", "_timestamp", "_wandb.runtime", "User", "save_name"} <= found[0].facts.keys()


def test_the_data_frame_of_the_wandb_api(read):
    first, second = read(WANDB_API)
    assert first.name == "glowing-sun-1"
    assert first.config == {"lr": 0.01, "model": "alexnet", "seed": 1, "norm": None, "kernels": "[3, 5]"}
    assert second.config["norm"] == "none"
    assert first.metrics == {"test/acc": 0.81}  # its loss is NaN
    assert second.metrics == {"test/acc": 0.82, "test/loss": 0.61}


def test_mlflow_from_the_page_and_from_the_api(read):
    first, second = read(MLFLOW_PAGE)
    assert (first.name, first.status, second.status) == ("bright-ant-1", "done", "failed")
    assert first.config == {"batch_size": 64, "model": "a", "seed": 1}
    assert first.metrics == {"accuracy": 0.81, "rmse": 0.41}
    first, second = read(MLFLOW_API)
    assert second.name == "bright-ant-2"
    assert second.config == {"lr": 0.1, "norm": "lrn", "seed": 2}
    assert second.metrics == {"val/acc": 0.82, "elo": 1510.0}


def test_the_data_frame_of_an_optuna_study(read):
    first, second = read(OPTUNA)
    assert first.config == {"lr": 0.1, "norm": "none"}
    assert first.metrics == {"value": 0.81}
    assert (first.status, second.status) == ("done", "pruned")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_history_of_keras_is_one_run(read, delimiter):
    found = read(KERAS.replace(",", delimiter))
    (run,) = found
    assert run.metrics == {
        "train/accuracy": 0.61,
        "train/loss": 1.10,
        "val/accuracy": 0.55,
        "val/loss": 1.31,
        "learning_rate": 0.0005,
    }
    assert "history of one run" in found.notes[0]


def test_two_histories_are_two_arms(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(KERAS)
    first, second = runs.read(tmp_path / "a.csv", tmp_path / "b.csv")
    assert first.config != second.config  # nothing else tells them apart, and they are no two seeds of one arm
    assert first.name != second.name
    assert len(runs.read(tmp_path / "a.csv", tmp_path / "b.csv").notes) == 1
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("epoch,lr,val_loss\n0,0.1,0.5\n1,0.1,0.4\n")
    first, second = runs.read(tmp_path / "a.csv", tmp_path / "b.csv")
    assert first.config["lr"] == second.config["lr"] == 0.1
    assert first.config != second.config


def test_metrics_of_lightning_by_hand_and_its_folder_alone(tmp_path):
    logs = tmp_path / "lightning_logs"
    for version, lr in enumerate((0.1, 0.01)):
        folder = logs / f"version_{version}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(LIGHTNING)
        (folder / "hparams.yaml").write_text(f"lr: {lr}\nseed: 7\n")
    first, second = runs.read(logs)
    assert [run.name for run in (first, second)] == ["version_0", "version_1"]
    assert (first.config, second.config) == ({"lr": 0.1, "seed": 7}, {"lr": 0.01, "seed": 7})
    assert first.metrics["test/acc"] == 0.53
    assert first.metrics["val/acc"] == 0.52
    (run,) = runs.read(logs / "version_0" / "metrics.csv")
    assert (run.config, run.metrics) == (first.config, first.metrics)
    (copied := tmp_path / "copied.csv").write_text(LIGHTNING)
    (run,) = runs.read(copied)
    assert run.metrics["test/acc"] == 0.53


def test_the_unknown_status_of_a_lightning_run_is_noted(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,val_acc\n0,9,0.5\n1,19,0.6\n")
    found = runs.read(tmp_path)
    assert [run.status for run in found] == ["done"]
    assert "do not record a status" in found.notes[0]


def test_a_history_of_several_runs_needs_a_column_that_names_them(read):
    found = read("run,epoch,lr,val_acc\na,0,0.1,0.5\na,1,0.1,0.6\nb,0,0.2,0.4\nb,1,0.2,0.7\n")
    assert [(run.name, run.config, run.metrics) for run in found] == [
        ("a", {"lr": 0.1}, {"val/acc": 0.6}),
        ("b", {"lr": 0.2}, {"val/acc": 0.7}),
    ]
    found = read("run,epoch,val_acc\na,0,0.5\nb,0,0.4\na,1,0.6\nb,1,0.7\n")
    assert [(run.name, run.config, run.metrics) for run in found] == [
        ("a", {"label": "a"}, {"val/acc": 0.6}),
        ("b", {"label": "b"}, {"val/acc": 0.7}),
    ]
    with pytest.raises(UserError, match=r"one row per epoch of several runs, .*; add a column `run`"):
        read("epoch,lr,val_acc\n0,0.1,0.5\n0,0.2,0.6\n1,0.1,0.4\n1,0.2,0.7\n")


def test_an_epoch_in_a_table_of_runs_makes_no_history(read):
    found = read("lr,seed,epoch,test_acc\n0.1,1,3,0.5\n0.1,2,7,0.6\n0.2,1,4,0.5\n0.2,2,5,0.4\n")
    assert len(found) == 4
    assert next(run.config for run in found) == {"lr": 0.1, "seed": 1}
    found = read("epochs,seed,test_acc\n1,1,0.5\n2,1,0.6\n3,1,0.7\n")
    assert [run.config["epochs"] for run in found] == [1, 2, 3]  # how long to train is a setting


@pytest.mark.parametrize(
    "content",
    [
        b"model ; lr;test acc\nalex ; 0,1;80,1\nres ; 0,1;90,25\n",
        b"sep=;\r\nmodel;lr;test_acc\r\nalex;0,1;80,1\r\nres;0,1;90,25\r\n",
        b"model\tlr\ttest_acc\nalex\t0.1\t80.1\nres\t0.1\t90.25\n",
        b"model, lr, test_acc\nalex, 0.1, 80.1%\nres, 0.1, 90.25%\n",
        b"model,lr,Test Acc\nalex,0.1,80.1 %\nres,0.1,90.25 %\n",
        b",model,lr,test_acc\n0,alex,0.1,80.1\n1,res,0.1,90.25\n",
        b"model,lr,test_acc,\nalex,0.1,80.1,\nres,0.1,90.25,\n",
        b'model,lr,test_acc\nalex,"0,1","80,1"\nres,"0,1","90,25"\n',
        b"\xef\xbb\xbfmodel,lr,test_acc\r\nalex,0.1,80.1\r\nres,0.1,90.25\r\n",
        "model\tlr\ttest_acc\nalex\t0.1\t80.1\nres\t0.1\t90.25\n".encode("utf-16"),
        "model,lr,test_acc\nalex,0.1,80.1\nres,0.1,90.25\n".encode("utf-16-le"),
        "model,lr,test_acc\nalex,0.1,80.1\nres,0.1,90.25\n".encode("utf-16-be"),
        b"model|lr|test_acc\nalex|0.1|80.1\nres|0.1|90.25",
    ],
)
def test_dialects(read, content):
    first, second = read(content)
    assert first.config == {"model": "alex", "lr": 0.1}
    assert second.metrics == {"test/acc": pytest.approx(0.9025)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"model  test_acc\nalex  0.8\nres  0.9\n", "separated by spaces; separate them by commas"),
        (b"PK\x03\x04\x14\x00", "an Excel or zip file; save the table as CSV"),
        (b"\x1f\x8b\x08\x00", "compressed with gzip; decompress it first"),
        (b'{"runs": []}', "JSON, not CSV"),
        (b"\x00\x01\x02\x03\x00\x00", "not a text file"),
        (b'"Step","a - val/acc","a - val/acc__MIN","a - val/acc__MAX"\n0,1,1,1\n', "export the table of runs instead"),
        (b",lr,\na,1,x\n", "column 3 has no name; add one to the first line"),
        (b"config,name\n{'a': what},b\n", "line 2: config cannot be read as a dictionary"),
        (b'config,name\n"{1, 2}",b\n', "line 2: config cannot be read as a dictionary"),
    ],
)
def test_files_that_are_not_tables_of_runs_are_rejected_with_advice(read, content, said):
    with pytest.raises(UserError) as refused:
        read(content)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_columns_keep_their_types(read):
    found = read(
        "commit_of,zip,lr,norm,flag,batch,test_acc\n"
        "8e45012,007,1e-3,none,True,[1; 2],0.5\n"
        "1a2b3c4,012,0.10,None,false,1_1,0.6\n"
        "9999999,100,2,null,,64,0.7\n"
    )
    assert [run.config for run in found] == [
        {"commit_of": "8e45012", "zip": "007", "lr": 0.001, "norm": "none", "flag": True, "batch": "[1; 2]"},
        {"commit_of": "1a2b3c4", "zip": "012", "lr": 0.1, "norm": None, "flag": False, "batch": "1_1"},
        {"commit_of": 9999999, "zip": 100, "lr": 2, "norm": None, "flag": None, "batch": 64},
    ]


def test_ids_times_and_counters_do_not_form_arms(read):
    found = read(
        "exp_name,model,data_id,job_time_s,max_time,time_steps,perceptual_loss,precision,test_acc\n"
        "x1,a,d1,10.5,1,4,1,16,0.5\n"
        "x2,a,d2,11.5,2,5,1,16,0.6\n"
        "x3,b,d3,12.5,3,6,0.5,32,0.7\n"
        "x4,b,d4,13.5,4,7,0.5,32,0.8\n"
    )
    assert set(found[0].config) == {"model", "max_time", "time_steps", "perceptual_loss", "precision"}
    assert {"exp_name", "data_id", "job_time_s"} <= found[0].facts.keys()
    assert any("exp_name" in note and "data_id" in note for note in found.notes)
    found = read("exp_name,test_acc\nbase,0.5\nlrn,0.6\n")
    assert [run.config for run in found] == [{"exp_name": "base"}, {"exp_name": "lrn"}]


def test_a_metric_column_with_text_is_noted(read):
    found = read("model,test_acc\na,0.5\nb,diverged\n")
    assert "test_acc is not read as a metric because line 3 contains 'diverged'" in found.notes[0]


def test_names_are_normalized_to_nfc(read):
    (run,) = read("gro\u0308\u00dfe,test_acc\ncafe\u0301,0.5\n")
    assert run.config == {"gr\u00f6\u00dfe": "caf\u00e9"}


def test_all_runs_of_a_project_share_the_unit_of_a_metric(tmp_path):
    for name, accuracy in (("good", 93.5), ("diverged", 1.0), ("other", 90.0)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "metrics.csv").write_text(f"epoch,step,test_acc,test_loss\n0,1,{accuracy},2.0\n")
    found = runs.read(tmp_path)
    assert {run.name: run.metrics for run in found} == {
        "diverged": {"test/acc": 0.01, "test/loss": 2.0},
        "good": {"test/acc": pytest.approx(0.935), "test/loss": 2.0},
        "other": {"test/acc": 0.9, "test/loss": 2.0},
    }
    (note,) = found.notes
    assert "test/acc is above 1.5 in some runs and is therefore read as percent" in note
    assert "diverged" in note
    (tmp_path / "table.csv").write_text("model,test_acc\na,95.0\nb,96.0\n")
    (tmp_path / "low.csv").write_text("model,test_acc\na,1.2\nb,0.9\n")
    found = runs.read(tmp_path / "table.csv", tmp_path / "low.csv")
    assert [run.metrics["test/acc"] for run in found] == pytest.approx([0.95, 0.96, 0.012, 0.009])


def test_bookkeeping_settings_of_hydra_do_not_form_arms(tmp_path):
    for number, stamp in enumerate(("2024-03-01_10-00-00", "2024-03-01_10-05-00")):
        folder = tmp_path / str(number)
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "config.yaml").write_text(
            f"seed: {number}\nlr: 0.1\nexp:\n  run_id: r{number}\n  started: {stamp}\n"
        )
        (folder / "metrics.csv").write_text("epoch,step,test_acc\n0,1,0.5\n")
    first, second = runs.read(tmp_path)
    assert {"seed", "lr"} == first.config.keys() == second.config.keys()
    assert first.facts["exp.run_id"] == "r0"


def test_a_table_in_the_folder_of_a_run_is_that_run(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "result.json").write_text(
        '{"format": 1, "status": "done", "config": {"seed": 1}, "metrics": {"test/top1": 0.9}}'
    )
    (tmp_path / "one" / "metrics.csv").write_text("epoch,step,val/top1\n1,10,0.8\n2,20,0.85\n")
    (run,) = runs.read(tmp_path / "one" / "metrics.csv")
    assert run.metrics == {"test/top1": 0.9}
    assert run.path.name == "one"
