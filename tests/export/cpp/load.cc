// Answers through tensorflow::LoadSavedModel: `load SAVED_MODEL EXCHANGE`.
//
// EXCHANGE has a folder for each signature. It reads <input>.in and writes <output>.out there. The
// format of the files is that of ../loaders/tensor_files.py.

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/public/session.h"

namespace fs = std::filesystem;
using tensorflow::Tensor;

const std::map<std::string, tensorflow::DataType> kTypes = {
    {"float32", tensorflow::DT_FLOAT}, {"int32", tensorflow::DT_INT32},
    {"int64", tensorflow::DT_INT64},   {"uint8", tensorflow::DT_UINT8},
    {"string", tensorflow::DT_STRING},
};

Tensor Read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string line, name;
  std::getline(file, line);
  std::istringstream header(line);
  header >> name;
  tensorflow::TensorShape shape;
  for (int64_t size; header >> size;) shape.AddDim(size);
  Tensor tensor(kTypes.at(name), shape);
  if (tensor.dtype() == tensorflow::DT_STRING) {
    auto values = tensor.flat<tensorflow::tstring>();
    for (int64_t i = 0; i < values.size(); ++i) {
      uint64_t length = 0;
      file.read(reinterpret_cast<char*>(&length), sizeof(length));
      std::string value(length, '\0');
      file.read(value.data(), length);
      values(i) = value;
    }
  } else {
    file.read(static_cast<char*>(tensor.data()), tensor.TotalBytes());
  }
  return tensor;
}

void Write(const fs::path& path, const Tensor& tensor) {
  std::ofstream file(path, std::ios::binary);
  for (const auto& [name, type] : kTypes) {
    if (type == tensor.dtype()) file << name;
  }
  for (int i = 0; i < tensor.dims(); ++i) file << ' ' << tensor.dim_size(i);
  file << '\n';
  if (tensor.dtype() == tensorflow::DT_STRING) {
    auto values = tensor.flat<tensorflow::tstring>();
    for (int64_t i = 0; i < values.size(); ++i) {
      uint64_t length = values(i).size();
      file.write(reinterpret_cast<const char*>(&length), sizeof(length));
      file.write(values(i).data(), length);
    }
  } else {
    file.write(static_cast<const char*>(tensor.data()), tensor.TotalBytes());
  }
}

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: load SAVED_MODEL EXCHANGE\n";
    return 2;
  }
  tensorflow::SavedModelBundle bundle;
  auto status = tensorflow::LoadSavedModel({}, {}, argv[1], {"serve"}, &bundle);
  if (!status.ok()) {
    std::cerr << status.ToString() << "\n";
    return 1;
  }
  for (const auto& folder : fs::directory_iterator(argv[2])) {
    const auto& signature = bundle.GetSignatures().at(folder.path().filename().string());
    std::vector<std::pair<std::string, Tensor>> inputs;
    for (const auto& [name, spec] : signature.inputs()) {
      inputs.emplace_back(spec.name(), Read(folder.path() / (name + ".in")));
    }
    std::vector<std::string> names, tensors;
    for (const auto& [name, spec] : signature.outputs()) {
      names.push_back(name);
      tensors.push_back(spec.name());
    }
    std::vector<Tensor> outputs;
    status = bundle.session->Run(inputs, tensors, {}, &outputs);
    if (!status.ok()) {
      std::cerr << status.ToString() << "\n";
      return 1;
    }
    for (size_t i = 0; i < names.size(); ++i) {
      Write(folder.path() / (names[i] + ".out"), outputs[i]);
    }
  }
  return 0;
}
