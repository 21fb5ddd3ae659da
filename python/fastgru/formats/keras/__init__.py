"""What Keras 2 and 3 saved: configs, HDF5 and weights, read without Keras, TensorFlow or h5py."""
