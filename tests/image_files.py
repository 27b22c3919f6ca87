"""Datasets on disk, made of noise: folders of images, and data as TFDS prepares it."""

import io
import json

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(pixels, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def folder(path, parts=("train", "test"), classes=("cat", "dog"), n=5, shape=(4, 4, 3)):
    for p, part in enumerate(parts):
        for c, name in enumerate(classes):
            home = path / part / name
            home.mkdir(parents=True)
            for i in range(n):
                (home / f"{i}.png").write_bytes(png(noise(100 * p + 10 * c + i, *shape)))
    return f"folder:{path}"


def tfds_data(path, splits, classes=("a", "b"), file_format="array_record", supervised=True):
    """A dataset as TFDS lays it out: splits are lists of (encoded image, label)."""
    from tensorflow_datasets.proto import tf_example_pb2
    from tensorflow_datasets.proto import tf_feature_pb2 as tf

    home, features = path / "tiny" / "1.0.0", "tensorflow_datasets.core.features."
    home.mkdir(parents=True)
    image = {"shape": {"dimensions": ["-1", "-1", "3"]}, "dtype": "uint8", "encodingFormat": "png"}
    kinds = {
        "image": {"pythonClassName": features + "image_feature.Image", "image": image},
        "label": {
            "pythonClassName": features + "class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(len(classes))},
        },
    }
    top = {"pythonClassName": features + "features_dict.FeaturesDict"}
    (home / "features.json").write_text(json.dumps(top | {"featuresDict": {"features": kinds}}))
    (home / "label.labels.txt").write_text("\n".join(classes))
    pair = {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}}
    info = {
        "name": "tiny",
        "version": "1.0.0",
        "fileFormat": file_format,
        "moduleName": "tiny",
        "splits": [
            {
                "name": name,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": "1",
                "shardLengths": [str(len(items))],
            }
            for name, items in splits.items()
        ],
    } | ({"supervisedKeys": pair} if supervised else {})
    (home / "dataset_info.json").write_text(json.dumps(info))
    for name, items in splits.items():
        file = home / f"tiny-{name}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(file), "group_size:1")
        for encoded, label in items:
            value = {
                "image": tf.Feature(bytes_list=tf.BytesList(value=[encoded])),
                "label": tf.Feature(int64_list=tf.Int64List(value=[label])),
            }
            example = tf_example_pb2.Example(features=tf.Features(feature=value))
            writer.write(example.SerializeToString())
        writer.close()
    return "tfds:tiny"


def tiny(n=10, shape=(4, 4, 3), labels=2):
    return [(png(noise(i, *shape)), i % labels) for i in range(n)]
